"""Generated programs against their tests, each in a process of its own that is held back as far as the system allows.

What holds on every POSIX system: a time limit on the wall and of the processor, limits of memory, file size and open
files, no child processes, an empty folder to work in that is deleted, no environment, no output, none of
the packages that are installed, and the death of its whole session at the end. Python's audit events refuse sockets,
processes, signals, foreign libraries, and every change outside of that folder.

What does not hold: audit events are no wall against code that sets out to climb it (PEP 578 says so), and files that
the user may read can be read. A process of root changes to nobody first if that user can read Python's library (else
limits on processes do not bind it), and it leaves the network where the kernel lets it. For programs of a model that nobody trusts, run all of
Weft in a container.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from weft.errors import DataError

_RUNNER = Path(__file__).with_name("confined.py")
_MOST_SAID = 512  # bytes of a result that are read
_PASSED = "passed"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use.

    Attributes:
        seconds: on the wall; the processor time is bounded by the next whole number.
        memory_bytes: of its address space.
        file_bytes: of each file that it writes.
    """

    seconds: float = 10.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a program.

    Attributes:
        passed: it came to the end of its tests.
        reason: why not: the name of an exception, ``timeout``, or ``no result`` (it was killed, or left).
    """

    passed: bool
    reason: str = ""


def run_programs(sources: Sequence[str], limits: Limits | None = None) -> list[Outcome]:
    """Return what becomes of each program, some of them at a time.

    Raises:
        DataError: this system has no such processes.
    """
    if os.name != "posix":
        raise DataError("execute: must run on a POSIX system, but this is none. Judge by other metrics.")
    own = limits or Limits()
    if not sources:
        return []
    with ThreadPoolExecutor(min(len(sources), os.cpu_count() or 1)) as workers:
        return list(workers.map(lambda source: run_program(source, own), sources))


def run_program(source: str, limits: Limits) -> Outcome:
    """Return what becomes of one program, tests and all; it passes when its last line is done."""
    token = secrets.token_hex(16)  # a program that only ends early cannot say it
    job = {
        "token": token,
        "source": source,
        "seconds": int(limits.seconds) + 1,
        "memory": limits.memory_bytes,
        "file": limits.file_bytes,
    }
    told, tell = os.pipe()
    os.set_blocking(told, False)
    try:
        with TemporaryDirectory(prefix="weft-", ignore_cleanup_errors=True) as home:
            in_time = _run(json.dumps(job).encode(), home, tell, seconds=limits.seconds)
        with suppress(BlockingIOError):
            return _outcome(os.read(told, _MOST_SAID), token, in_time=in_time)
        return _outcome(b"", token, in_time=in_time)
    finally:
        os.close(told)


def _run(job: bytes, home: str, tell: int, *, seconds: float) -> bool:
    """Run the job to its end, or kill it; return whether it ended in time."""
    command = [sys.executable, "-I", "-S", "-B", str(_RUNNER), str(tell)]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=home,
            env={},
            start_new_session=True,
            pass_fds=(tell,),
        )
    finally:
        os.close(tell)
    try:
        process.communicate(job, timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    finally:
        with suppress(ProcessLookupError, PermissionError):  # nobody is left, or nobody that is ours
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
    return True


def _outcome(said: bytes, token: str, *, in_time: bool) -> Outcome:
    if not in_time:
        return Outcome(passed=False, reason="timeout")
    try:
        first, reason = json.loads(said)
    except (ValueError, TypeError):
        return Outcome(passed=False, reason="no result")
    if first != token:
        return Outcome(passed=False, reason="no result")
    return Outcome(passed=True) if reason == _PASSED else Outcome(passed=False, reason=str(reason))
