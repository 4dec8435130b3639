"""Whose rights a process has: the invoking user's for all that draws. ktop/capabilities.py has the
collector's.
"""

from __future__ import annotations

import os
import pwd
import signal
from typing import Any

from ktop.capabilities import FILES, bound, keep_only, prctl

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """SIGTERM when the supervisor is gone, however it went."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
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


def drop_privileges(starts_programs: bool = False) -> None:
    """Become the user who called sudo, for good, and keep no capability. Textual is imported after
    this.

    Root that is nobody's sudo keeps its rights to files (FILES). starts_programs: the user's own,
    which may need what no_new_privs forbids (an ssh whose ProxyCommand is a setuid program).
    """
    user = invoking_user()
    if user is None:
        keep_only(FILES if os.geteuid() == 0 else (), not starts_programs)
        return
    try:
        gid = int(os.environ.get("SUDO_GID", user.pw_gid))
    except ValueError:
        gid = user.pw_gid
    import ctypes  # noqa: F401 - for the rest, while it can surely be read

    _import_what_they_cannot_read(user, gid)
    os.initgroups(user.pw_name, gid)
    os.setresgid(gid, gid, gid)
    bound(0)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    os.environ.update(HOME=user.pw_dir, USER=user.pw_name, LOGNAME=user.pw_name)
    keep_only((), not starts_programs)


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
