"""Which accounts there are here: W&B's key or login and whether its server answers, Hugging Face's token.

Owns: where W&B keeps its server's address and its keys, and the Hub's client its token; neither is read into a value.
Must not know: runs, what is tracked or published. Imports no wandb: it is asked before each run, and on the login node.

Source: wandb 0.31, `sdk/lib/wbauth` and `sdk/lib/settings_file.py`.
"""

from __future__ import annotations

import configparser
import http.client
import importlib.util
import netrc
import os
import pwd
import re
import urllib.error
import urllib.request
from collections.abc import Container, Mapping
from pathlib import Path
from urllib.parse import urlsplit

ANSWER_SECONDS = 5.0  # within which a server must answer to be used
CLOUD = "https://api.wandb.ai"
PROJECT = "prefsweep"
KEY_VARIABLES = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE")


def installed(package: str) -> bool:
    """Whether a package could be imported; does not import it."""
    return importlib.util.find_spec(package) is not None


def server(environment: Mapping[str, str] = os.environ) -> str:
    """The address of the W&B server: of the environment, else of the user's settings file, else the public one."""
    folder = environment.get("WANDB_CONFIG_DIR") or _home(environment) / ".config" / "wandb"
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read(Path(folder) / "settings", encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        settings.clear()
    known = settings.get("default", "base_url", fallback=CLOUD)
    return (environment.get("WANDB_BASE_URL") or known).rstrip("/")


def shown(address: str) -> str:
    """An address without the user and the password that it may hold, for logs."""
    return re.sub(r"(?<=://)[^/@]*@", "", address)


def project(environment: Mapping[str, str] = os.environ) -> str:
    """The W&B project of runs that name none."""
    return environment.get("WANDB_PROJECT") or PROJECT


def lacks_login(environment: Mapping[str, str] = os.environ) -> str | None:
    """What keeps this machine from that server, its address or that there is no key or login for it; None: nothing."""
    host = _host(server(environment))
    if host is None:
        return "the W&B server's address is malformed (see WANDB_BASE_URL)"
    if any(environment.get(name) for name in KEY_VARIABLES) or host in _logins(environment):
        return None
    return "no W&B key or login here (`wandb login`, or WANDB_API_KEY)"


def _host(address: str) -> str | None:
    """The host and port of an address; None: it is malformed."""
    try:
        return urlsplit(address).netloc or None
    except ValueError:
        return None


def _logins(environment: Mapping[str, str]) -> Container[str]:
    """The hosts for which there is one."""
    path = environment.get("NETRC") or str(_home(environment) / ".netrc")
    try:
        return netrc.netrc(os.path.expanduser(path)).hosts  # noqa: PTH111 - Path's raises where there is no such user
    except (OSError, UnicodeDecodeError, netrc.NetrcParseError):
        return ()


def answers(address: str) -> bool:
    """Whether a server says anything at all within ANSWER_SECONDS; an error is an answer."""
    if not address.startswith(("http://", "https://")):
        return False
    try:
        urllib.request.urlopen(address, timeout=ANSWER_SECONDS).close()  # noqa: S310 - checked above
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError, http.client.HTTPException):  # ValueError: no address
        return False
    return True


def has_token(environment: Mapping[str, str]) -> bool:
    """Whether huggingface_hub would find a token here; looked up without importing it (a third of a second)."""
    cache = Path(environment.get("XDG_CACHE_HOME", _home(environment) / ".cache"))
    folder = Path(environment.get("HF_HOME", cache / "huggingface"))
    file = Path(environment.get("HF_TOKEN_PATH", folder / "token"))
    if any(environment.get(name) for name in TOKEN_VARIABLES):
        return True
    try:
        return file.is_file()
    except PermissionError:  # another user's home, as after `su`: what may not be read is no token of ours
        return False


def _home(environment: Mapping[str, str]) -> Path:
    """What `~` is for these libraries: HOME, else the password database's; with neither, no folder that there is."""
    if "HOME" in environment:
        return Path(environment["HOME"])
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # a container's user, say
        return Path("/nonexistent")
