"""Generated programs: what passes, and what a program that misbehaves can do."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest

from weft.metric.execution import Limits, Outcome, run_program, run_programs

LIMITS = Limits(seconds=5.0)
ADD = "def add(a, b):\n    return a + b\n"


def of(source: str, limits: Limits = LIMITS) -> Outcome:
    return run_program(source, limits)


def test_a_program_passes_at_the_end_of_its_tests():
    assert of(ADD + "assert add(2, 3) == 5") == Outcome(passed=True)
    assert of(ADD + "assert add(2, 3) == 6") == Outcome(passed=False, reason="AssertionError")
    assert of("def add(a, b) return a") == Outcome(passed=False, reason="SyntaxError")
    assert of("# 中文\nassert len('上海') == 2").passed


def test_the_standard_library_is_there_and_nothing_else():
    used = "import math, re, collections, itertools, functools, heapq, dataclasses, typing, json, random\n"
    data = "@dataclasses.dataclass\nclass P:\n    x: typing.ClassVar[int] = 1\n    y: int = 2\nassert P().y == 2\n"
    assert of(used + data) == Outcome(passed=True)
    assert of("import numpy").reason == "ModuleNotFoundError"
    assert of("import os\nassert not os.environ.get('PATH') and os.listdir('.') == []").passed


@pytest.mark.parametrize(
    "leave",
    ["import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit", "quit = 1/0", "exit(0)"],
)
def test_leaving_before_the_tests_is_no_pass(leave):
    assert not of(f"{leave}\nassert False").passed


def test_results_that_are_not_the_runners_are_no_pass():
    forged = 'import os\nfor fd in range(3, 20):\n    try:\n        os.write(fd, b\'["", "passed"]\')\n'
    assert not of(forged + "    except OSError:\n        pass\nos._exit(0)").passed
    assert of(
        "import os\nfor fd in range(3, 20):\n    try: os.write(fd, b'x' * 70000)\n    except OSError: pass",
        Limits(seconds=1),
    ).reason in (
        "timeout",
        "no result",
    )


def test_an_endless_loop_is_killed_in_time():
    start = time.perf_counter()
    assert of("while True:\n    pass", Limits(seconds=0.7)) == Outcome(passed=False, reason="timeout")
    assert of("import time\ntime.sleep(60)", Limits(seconds=0.7)).reason == "timeout"
    assert time.perf_counter() - start < 6


def test_memory_is_bounded():
    assert not of("hog = bytearray(8 << 30)").passed
    assert not of("hog = []\nwhile True:\n    hog.append('x' * (1 << 24))").passed
    assert of("ok = bytearray(100 << 20)").passed


@pytest.mark.parametrize(
    "bomb",
    [
        "import os\nwhile True:\n    os.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.system('true')",
        "import multiprocessing\nmultiprocessing.Process(target=print).start()",
        "import os\nos.kill(os.getppid(), 15)",
        "import os\nos.killpg(0, 15)",
        "import ctypes\nctypes.CDLL(None).fork()",
        "import socket\nsocket.socket()",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')",
    ],
)
def test_processes_signals_libraries_and_the_network_are_refused(bomb):
    outcome = of(bomb)
    assert not outcome.passed
    assert outcome.reason in ("PermissionError", "RuntimeError", "URLError", "OSError", "BlockingIOError")


def test_files_are_written_in_its_own_folder_only(tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("keep", encoding="utf-8")
    tmp_path.chmod(0o777)
    precious.chmod(0o666)
    assert of("open('own.txt', 'w').write('fine')\nassert open('own.txt').read() == 'fine'").passed
    for deed in (
        f"open({str(precious)!r}, 'w').write('gone')",
        f"open({str(precious)!r}, 'a')",
        f"import os; os.remove({str(precious)!r})",
        f"import os; os.rename('x', {str(precious)!r})",
        f"import shutil; shutil.rmtree({str(tmp_path)!r})",
        f"import pathlib; pathlib.Path({str(tmp_path / 'new')!r}).touch()",
        f"import os; os.open({str(precious)!r}, os.O_RDWR | os.O_TRUNC)",
        f"import os; os.symlink({str(tmp_path)!r}, 'way'); open('way/precious.txt', 'w')",
        f"import os; os.truncate({str(precious)!r}, 0)",
        f"import os; os.remove('precious.txt', dir_fd=os.open({str(tmp_path)!r}, os.O_RDONLY))",
        f"import os; os.chdir(os.open({str(tmp_path)!r}, os.O_RDONLY)); os.remove('precious.txt')",
        f"import os; os.chdir({str(tmp_path)!r}); os.remove('precious.txt')",
    ):
        assert not of(deed).passed, deed
    assert precious.read_text(encoding="utf-8") == "keep"
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_large_files_and_much_output_do_no_harm():
    assert not of(
        "with open('big', 'wb') as f:\n    for _ in range(64):\n        f.write(b'x' * (1 << 20))"
    ).passed
    start = time.perf_counter()
    assert of("for _ in range(2000):\n    print('x' * 10000)").passed
    assert time.perf_counter() - start < 4


def test_nothing_stays_behind():
    def homes():
        return {path.name for path in Path(tempfile.gettempdir()).glob("weft-*")}

    before = homes()
    of("open('left.txt', 'w').write('x')\nimport os\nos.mkdir('deep')\nopen('deep/y', 'w')")
    assert homes() <= before


def test_programs_are_judged_in_their_order():
    sources = [ADD + f"assert add(1, 1) == {number}" for number in (1, 2, 3, 2)]
    assert [outcome.passed for outcome in run_programs(sources, LIMITS)] == [False, True, False, True]
    assert run_programs([]) == []
