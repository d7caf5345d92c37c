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


def called(user: int) -> str:
    """The same; the number where there is none."""
    return name_of(user) or str(user)


def our_name() -> str:
    """Ours, as of `called`."""
    return called(os.getuid())
