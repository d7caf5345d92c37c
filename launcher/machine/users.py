"""Who somebody is on this machine.

Owns: names of user ids, also of such as no directory knows. Must not know: files, what an environment calls us.
"""

from __future__ import annotations

import os
import pwd


def name_of(user: int) -> str | None:
    """The name of that id; None where nothing knows it: a container's user, a directory service that is down."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return None


def our_name() -> str:
    """Ours; the number where we have none."""
    return name_of(os.getuid()) or str(os.getuid())
