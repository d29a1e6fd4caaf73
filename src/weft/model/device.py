"""What this machine computes with, and how wide its arithmetic is."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path

import torch

from weft import native
from weft.recipe.spec import Precision

_NATIVE_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # x86 dot products, x86 tiles, Arm


def pick_device() -> torch.device:
    """Return the first CUDA device, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def pick_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type that the trunk computes in on ``device``; AUTO is bf16 only where the hardware multiplies it.

    Emulated bf16 (AVX-512 without the bf16 instructions) is slower than fp32, so AUTO does not choose it.
    """
    match precision:
        case Precision.FP32 | Precision.MEDIUM:
            return torch.float32
        case Precision.BF16:
            return torch.bfloat16
        case Precision.AUTO:
            return torch.bfloat16 if _has_bf16(device) else torch.float32


def memory_of(device: torch.device) -> int:
    """Return the bytes that a run may use: what is free on a GPU, or all memory of the machine; a lot if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _memory_bytes() or 2**62


def set_products(precision: Precision) -> None:
    """Let fp32 products of this process round their inputs, or not, as ``precision`` says."""
    torch.set_float32_matmul_precision("medium" if precision is Precision.MEDIUM else "highest")


def describe_machine() -> dict[str, str]:
    """Return what reports say about this machine: software versions, processor, memory, device and precision."""
    from transformers import __version__ as transformers_version

    device = pick_device()
    facts = {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers_version,
        "cpu": _cpu_name(),
        "cores": str(os.cpu_count() or 1),
        "threads": str(torch.get_num_threads()),
        "memory": _memory(),
        "device": str(device),
        "kernels": native.describe(),
        "precision": str(pick_precision(Precision.AUTO, device)).removeprefix("torch."),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["gpu_memory"] = f"{torch.cuda.get_device_properties(device).total_memory / 2**30:.1f} GiB"
    return facts


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and not _NATIVE_BF16.isdisjoint(cpu_flags())


@lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """Return the processor's feature flags in Linux' spelling; where there is no /proc, those torch can tell."""
    words = _cpuinfo("flags") or _cpuinfo("Features")
    if words:
        return frozenset(words.split())
    known = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
    asked = {flag: getattr(torch.cpu, name, None) for flag, name in known.items()}
    return frozenset(flag for flag, ask in asked.items() if ask is not None and ask())


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def _memory() -> str:
    size = _memory_bytes()
    return f"{size / 2**30:.1f} GiB" if size else "unknown"


def _memory_bytes() -> int:
    """Return the machine's memory, 0 where the system does not tell."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
