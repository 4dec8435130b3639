"""Whose rights a process has: root for the collector, the invoking user for all that draws."""

from __future__ import annotations

import os
import pwd
import signal
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def _prctl(option: int, value: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """SIGTERM when the supervisor is gone, however it went."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # gone before we asked
        os._exit(128 + signal.SIGTERM)


def invoking_user() -> pwd.struct_passwd | None:
    """The user behind sudo, None when there is nobody to drop to."""
    if os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwuid(int(os.environ["SUDO_UID"]))
    except (KeyError, ValueError):
        return None
    return user if user.pw_uid else None


def drop_privileges() -> None:
    """Become the user who called sudo, for good. Textual is imported after this."""
    user = invoking_user()
    if user is None:
        return
    try:
        gid = int(os.environ.get("SUDO_GID", user.pw_gid))
    except ValueError:
        gid = user.pw_gid
    import ctypes  # noqa: F401 - for _prctl, while it can surely be read

    _import_what_they_cannot_read(user, gid)
    os.initgroups(user.pw_name, gid)
    os.setresgid(gid, gid, gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    os.environ.update(HOME=user.pw_dir, USER=user.pw_name, LOGNAME=user.pw_name)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _import_what_they_cannot_read(user: Any, gid: int) -> None:
    """With ktop or Python installed below /root the user cannot read the code: import it now."""
    from importlib.util import find_spec

    spec = find_spec("textual")
    paths = [path for path in (spec.origin if spec else None, __file__, os.__file__) if path]
    groups = os.getgroups()
    try:
        os.setgroups(os.getgrouplist(user.pw_name, gid))
        os.setegid(gid)
        os.seteuid(user.pw_uid)
        readable = all(os.access(path, os.R_OK, effective_ids=True) for path in paths)
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
    if not readable:
        import ktop.app
        import ktop.crash

        ktop.app.preload()
