"""``weft env``: what this machine has, for bug reports and for choosing a precision."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from weft import __version__
from weft.cli.messages import say

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "safetensors", "datasets", "numpy")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HOME", "OMP_NUM_THREADS")
OWN = ("WEFT_CACHE", "WEFT_CACHE_LIMIT", "WEFT_NATIVE")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "bf16")  # the last one is Arm's
Facts = dict[str, Any]


def run(
    is_json: Annotated[bool, typer.Option("--json", help=say("env.json"))] = False,
) -> None:
    """Print versions, processor, memory, accelerators and the variables that keep libraries off the network."""
    facts = gather()
    if is_json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    for section, values in facts.items():
        sys.stdout.write(f"{say(f'env.section.{section}')}\n")
        width = max((len(name) for name in values), default=0)
        lines = [f"  {name:{width}}  {_shown(value)}\n" for name, value in values.items()]
        sys.stdout.write("".join(lines) or f"  {say('env.none')}\n")


def gather() -> Facts:
    """Return everything that ``weft env`` prints, as JSON values by section."""
    from weft import native

    return {
        "versions": {
            "weft": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "machine": {
            "system": platform.platform(),
            **processor(_text("/proc/cpuinfo")),
            "memory_gib": _memory_gib(),
            "kernels": native.describe(),
        },
        "accelerators": _accelerators(),
        "variables": {name: os.environ.get(name) for name in (*OFFLINE, *OWN)},
    }


def processor(cpuinfo: str) -> Facts:
    """Return name, cores and arithmetic units of the processor that ``/proc/cpuinfo`` describes (empty elsewhere)."""
    name = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    listed = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = set(listed[1].split()) if listed else set[str]()
    has_affinity = hasattr(os, "sched_getaffinity")
    return {
        "processor": name[1] if name else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
        "units": [flag for flag in FLAGS if flag in flags],
        "has_bf16": bool(flags & {"avx512_bf16", "amx_bf16", "bf16"}),
        "has_amx": "amx_bf16" in flags,
    }


def _accelerators() -> Facts:
    import torch

    if not torch.cuda.is_available():
        return {}
    return {
        f"cuda:{index}": {
            "name": found.name,
            "memory_gib": round(found.total_memory / 2**30, 1),
            "capability": f"{found.major}.{found.minor}",
            "cuda": torch.version.cuda,
        }
        for index in range(torch.cuda.device_count())
        for found in (torch.cuda.get_device_properties(index),)
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace") if Path(path).is_file() else ""


def _memory_gib() -> float | None:
    """Return the memory that this process may use: the machine's, or the container's where that is less."""
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _text("/sys/fs/cgroup/memory.max").strip()
    return round((min(total, int(limit)) if limit.isdecimal() else total) / 2**30, 1)


def _shown(value: Any) -> str:
    match value:
        case None | []:
            return say("env.none")
        case bool():
            return say("env.yes" if value else "env.no")
        case list():
            return " ".join(value)
        case dict():
            return ", ".join(f"{name} {item}" for name, item in value.items())
        case _:
            return str(value)
