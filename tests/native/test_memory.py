"""Memory that is freed and asked for again is not faulted in again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from weft.native.library import available

PROGRAM = """
import resource, torch
from weft.native.memory import keep_freed_memory
torch.set_num_threads(1)
kept = keep_freed_memory() if {on} else False
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(40):
    if turn == 10:
        before = faults()
    parts = [torch.ones(1 << 21) for _ in range(12)]  # 8 MiB each, more together than glibc keeps by itself
    del parts
print(kept, faults() - before)
"""


@pytest.mark.skipif(not available() or not sys.platform.startswith("linux"), reason="glibc and kernels")
def test_pages_are_touched_for_the_first_time_once():
    results = {}
    for on in (True, False):
        plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(on=on)],
            capture_output=True,
            text=True,
            check=True,
            env=plain,
        )
        kept, faults = done.stdout.split()
        results[on] = int(faults)
        assert kept == str(on)
    assert results[True] < 500
    assert results[False] > 4 * results[True]


def test_switched_off_nothing_is_changed():
    program = "from weft.native.memory import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"WEFT_NATIVE": "0", "PATH": "/usr/bin"},
    )
    assert done.stdout.strip() == "False"
