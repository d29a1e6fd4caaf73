"""Memory that is freed and asked for again is not faulted in again."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from weft.native.library import available

PROGRAM = """
import ctypes, torch
from weft.native.memory import keep_freed_memory

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks mapped u f o d k".split()]

info = ctypes.CDLL(None).mallinfo2
info.restype = Info
kept = keep_freed_memory()
before = info().mapped
parts = [torch.ones(4 << 20) for _ in range(3)]  # 16 MiB each: mapped one by one unless they are to be kept
print(kept, info().mapped - before)
"""


@pytest.mark.skipif(
    not available() or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 and kernels"
)
def test_large_blocks_come_from_memory_that_is_kept():
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=plain
    )
    assert done.stdout.split() == ["True", "0"]


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
