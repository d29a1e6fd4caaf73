"""Finds, loads and describes the compiled CPU kernels; without them everything in ``weft.native`` is plain torch."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

ABI = 3
"""Goes up with every change of a C signature or structure: a library left over from an older build is not loaded."""

_LOWER = {"AVX512": ("avx512bf16", "avx512", "avx2", "generic"), "AVX2": ("avx2", "generic")}


@dataclass(frozen=True, slots=True)
class Library:
    """The loaded kernels, and the OpenMP entry point that they share with torch (None: one thread)."""

    variant: str
    kernels: ctypes.CDLL
    parallel: int | None

    def team(self) -> tuple[int | None, int]:
        """Return what every kernel takes to share its work: the entry point and the number of threads."""
        return self.parallel, torch.get_num_threads() if self.parallel else 1


@cache
def library() -> Library | None:
    """Return the best kernels that this processor can run, loaded once; None when there are none to use.

    ``WEFT_NATIVE=0`` in the environment switches them off. Which instruction sets the processor has is torch's
    judgement, so ``ATEN_CPU_CAPABILITY`` lowers both alike.
    """
    if os.environ.get("WEFT_NATIVE", "1") == "0":
        return None
    for variant in _LOWER.get(torch.backends.cpu.get_cpu_capability(), ("generic",)):
        if variant == "avx512bf16" and not _multiplies_bf16():
            continue
        found = load(Path(__file__).parent / "kernels" / f"{variant}.so")
        if found is not None:
            return found
    return None


def load(path: Path) -> Library | None:
    """Load the kernels at ``path``; None if they are missing, cannot be loaded or belong to another version."""
    try:
        kernels = ctypes.CDLL(str(path))
        abi = kernels.weft_abi()
    except (OSError, AttributeError):
        return None
    return Library(path.stem, kernels, _parallel()) if abi == ABI else None


def available() -> bool:
    """Return whether compiled kernels are in use."""
    return library() is not None


def describe() -> str:
    """Return what ``weft env`` says about the kernels, such as ``avx512, 2 threads`` or ``pure``."""
    loaded = library()
    if loaded is None:
        return "pure"
    threads = loaded.team()[1]
    return f"{loaded.variant}, {threads} thread{'' if threads == 1 else 's'}"


def use_native(*tensors: torch.Tensor) -> Library | None:
    """Return the kernels if they can work on these tensors: on the CPU, all fp32 or all bf16."""
    kinds = {(tensor.device.type, tensor.dtype) for tensor in tensors}
    if kinds not in ({("cpu", torch.float32)}, {("cpu", torch.bfloat16)}):
        return None
    return library()


def _multiplies_bf16() -> bool:
    """Return whether the processor says so; torch's levels do not tell."""
    cpus = Path("/proc/cpuinfo")
    return cpus.exists() and "avx512_bf16" in cpus.read_text(encoding="utf-8", errors="replace")


def _parallel() -> int | None:
    """Return the address of ``GOMP_parallel`` in the OpenMP runtime that torch has already loaded.

    A second runtime in one process would fight with torch's over the cores, so none is ever loaded here: only
    libraries that are mapped into the process are asked (``RTLD_NOLOAD``).
    """
    for path in _openmp_paths():
        try:
            runtime = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
            return ctypes.cast(runtime.GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
    return None


def _openmp_paths() -> list[str]:
    if not sys.platform.startswith("linux"):
        return []
    with Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as lines:
        mapped = {line.split(maxsplit=5)[5].strip() for line in lines if ".so" in line}
    names = ("libgomp", "libiomp5", "libomp")
    return sorted(
        (path for path in mapped if Path(path).name.startswith(names)), key=lambda path: "torch" not in path
    )
