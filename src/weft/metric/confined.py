"""Runs one program under limits: a script of its own, started by ``weft.metric.execution`` and by nobody else.

It knows the standard library only, and tells its result on the file descriptor that is its argument.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

_NOBODY = 65534
_NEW_NETWORK = (
    0x10000000 | 0x40000000
)  # CLONE_NEWUSER | CLONE_NEWNET: no privilege is needed for both together
_OPEN_FILES = 32
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_REFUSED = (
    *("socket.", "subprocess.", "ctypes.", "pty.", "signal.", "syslog.", "ftplib.", "urllib.", "webbrowser."),
    *(
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.spawn",
        "os.fork",
        "os.kill",
        "os.setxattr",
        "os.startfile",
    ),
    *("resource.setrlimit", "_posixsubprocess.", "fcntl.", "mmap."),
)
_CHANGES = (  # audit events whose strings are paths that are changed; the open folder these are in comes last
    *(
        "os.chdir",
        "os.chmod",
        "os.chown",
        "os.lchown",
        "os.link",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
    ),
    *("os.symlink", "os.utime"),
)
_CHANGES_WHOLE = ("os.truncate", "shutil.rmtree")  # the same, without a folder
_FROM_AND_TO = ("os.link", "os.rename")  # each of its own folder


def main() -> None:
    """Read the job, give up what can be given up, run the program, and tell how it ended."""
    job = json.loads(sys.stdin.buffer.read())
    tell, write, dumps, leave = int(sys.argv[1]), os.write, json.dumps, os._exit
    _become_nobody()
    _leave_network()
    _limit(job)
    sys.addaudithook(_guard(os.path.realpath(".")))
    reason = _run(job["source"])
    write(tell, dumps([job["token"], reason]).encode())
    leave(0)


def _run(source: str) -> str:
    module = types.ModuleType("answer")
    sys.modules["answer"] = module  # dataclasses and the like look their module up
    sys.argv = ["answer"]
    try:
        exec(compile(source, "<answer>", "exec"), vars(module))  # noqa: S102  # what this process is for
    except BaseException as error:  # noqa: BLE001  # SystemExit too: a program that leaves has not passed
        return type(error).__name__
    return "passed"


def _become_nobody() -> None:
    """Stop being root, whom limits on processes and files do not bind, if nobody can read the standard library."""
    if os.geteuid() != 0:
        return
    library = os.__file__.rpartition(os.sep)[0]
    with suppress(OSError):
        os.setgroups([])
        os.seteuid(_NOBODY)
        can_read = os.access(library, os.R_OK | os.X_OK, effective_ids=True)
        os.seteuid(0)
        if can_read:
            os.chown(".", _NOBODY, _NOBODY)
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)


def _leave_network() -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).unshare(_NEW_NETWORK)


def _limit(job: Mapping[str, Any]) -> None:
    import resource

    limits = {
        resource.RLIMIT_CPU: job["seconds"],
        resource.RLIMIT_AS: job["memory"],
        resource.RLIMIT_FSIZE: job["file"],
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for name, most in limits.items():
        with suppress(OSError, ValueError):  # macOS bounds no address space
            resource.setrlimit(name, (most, most))


def _guard(home: str) -> Callable[[str, tuple[Any, ...]], None]:
    """Return an audit hook that refuses what a solution to an exercise has no use for."""
    fspath, realpath, inside = os.fspath, os.path.realpath, home + os.sep

    def is_outside(path: Any) -> bool:
        if isinstance(path, int):
            return False  # a file that is open already
        place = realpath(fspath(path))
        place = place.decode(errors="surrogateescape") if isinstance(place, bytes) else place
        return place != home and not place.startswith(inside)

    def guard(event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(_REFUSED):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open":
            path, _mode, flags = args
            if isinstance(flags, int) and flags & _WRITES and is_outside(path):
                raise PermissionError(f"{path} must not be written here")
        elif event in _CHANGES or event in _CHANGES_WHOLE:
            folders = () if event in _CHANGES_WHOLE else args[-2:] if event in _FROM_AND_TO else args[-1:]
            is_hidden = any(isinstance(folder, int) and folder >= 0 for folder in folders)
            if is_hidden or any(is_outside(path) for path in args if isinstance(path, str | bytes)):
                raise PermissionError(f"{event} is not allowed outside of its folder")

    return guard


if __name__ == "__main__":
    main()
