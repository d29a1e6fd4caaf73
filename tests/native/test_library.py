"""Which kernels are chosen, that they can be switched off, and whose threads they use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import weft.native.library as subject
from weft.native import available, describe
from weft.native.library import load, use_native

SOURCE = Path(subject.__file__).parents[2]
needs_kernels = pytest.mark.skipif(not available(), reason="no compiled kernels: run `python hatch_build.py`")

USE_EVERYTHING = """
import torch
from weft.native import available, describe
from weft.native.adamw import Step, adamw, sum_of_squares
from weft.native.attention import attention
from weft.native.dropout import dropout
q = torch.randn(5, 2, 8).requires_grad_()
attention(q, q, q, torch.tensor([0, 2, 5], dtype=torch.int32), 3, scale=0.3).sum().backward()
dropout(q, 0.5, 1).sum().backward()
adamw([q], [q.grad], exp_avgs=[torch.zeros(5, 2, 8)], exp_avg_sqs=[torch.zeros(5, 2, 8)], step=Step(0.1, 0.9, 0.99, 1e-8, 0, 1))
assert q.isfinite().all() and sum_of_squares([q.detach()]) > 0
print(available(), describe())
"""


def test_the_environment_switches_the_kernels_off():
    known = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(SOURCE), "WEFT_NATIVE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", USE_EVERYTHING], env=known, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("False pure", "")


@needs_kernels
@pytest.mark.parametrize(
    ("capability", "bf16", "best"),
    [
        ("AVX512", True, "avx512bf16"),
        ("AVX512", False, "avx512"),
        ("AVX2", True, "avx2"),
        ("DEFAULT", False, "generic"),
    ],
)
def test_the_best_variant_that_torch_sees_and_that_was_built_is_taken(monkeypatch, capability, bf16, best):
    monkeypatch.delenv("WEFT_NATIVE", raising=False)
    monkeypatch.setattr(subject, "_multiplies_bf16", lambda: bf16)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(subject, "load", lambda path: path.name)
    assert subject.library.__wrapped__() == f"{best}.so"
    monkeypatch.setattr(subject, "load", lambda path: path.name if "generic" in path.name else None)
    assert subject.library.__wrapped__() == "generic.so"
    monkeypatch.setattr(subject, "load", lambda path: None)
    assert subject.library.__wrapped__() is None


@needs_kernels
def test_the_description_names_variant_and_threads(threads):
    threads(1)
    variant = subject.library().variant
    assert describe() == f"{variant}, 1 thread"
    if subject.library().parallel:
        threads(3)
        assert describe() == f"{variant}, 3 threads"


@needs_kernels
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_there_is_one_openmp_runtime_and_it_is_torchs():
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    runtimes = {
        line.split()[-1] for line in maps if "libgomp" in line or "libiomp" in line or "libomp" in line
    }
    if runtimes:
        assert subject.library().parallel is not None
    assert sum("torch" in path for path in runtimes) <= 1
    # The kernels themselves bring none along.
    assert all("kernels" not in path for path in runtimes)


def test_files_that_are_no_kernels_are_passed_over(tmp_path):
    assert load(tmp_path / "none.so") is None
    (tmp_path / "broken.so").write_bytes(b"not a library")
    assert load(tmp_path / "broken.so") is None


@needs_kernels
def test_kernels_of_another_version_are_not_used(monkeypatch, tmp_path):
    found = Path(shutil.copy(subject.library().kernels._name, tmp_path / "copy.so"))
    assert load(found).variant == "copy"
    monkeypatch.setattr(subject, "ABI", subject.ABI + 1)
    assert load(found) is None


@needs_kernels
def test_only_what_the_kernels_can_read_goes_to_them():
    single, half = torch.ones(2), torch.ones(2, dtype=torch.bfloat16)
    assert use_native(single, single) is not None
    assert use_native(half) is not None
    assert use_native(single, half) is None
    assert use_native(single.double()) is None
    assert use_native(single.to("meta")) is None
