"""Compiles the optional CPU kernels of ``weft.native`` when Weft is built or installed.

With a C++ compiler at hand, one library per instruction set is put beside the Python files and the best one is
chosen at run time. Without a compiler, or when it fails, the installation goes on and Weft stays pure Python.
``python hatch_build.py`` builds in place, for work on the checkout.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # built in place, without hatchling
    BuildHookInterface = None

KERNELS = Path(__file__).resolve().parent / "src" / "weft" / "native" / "kernels"
# No -ffast-math and no contraction: what a kernel rounds is written in its source, not decided while inlining.
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wall"),
)
# Best first; the names are the ones `weft.native.library` looks for.
VARIANTS_X86 = {
    "avx512bf16": ("-march=x86-64-v4", "-mavx512bf16", "-mprefer-vector-width=512"),
    "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "avx2": ("-march=x86-64-v3",),
    "generic": (),
}
VARIANTS_OTHER: dict[str, tuple[str, ...]] = {"generic": ()}


def variants() -> dict[str, tuple[str, ...]]:
    """Return the compiler flags of every instruction set that is built for this kind of machine, best first."""
    return VARIANTS_X86 if platform.machine().lower() in ("x86_64", "amd64") else VARIANTS_OTHER


def compiler() -> str | None:
    """Return the C++ compiler: ``$CXX`` or the first of c++, g++ and clang++ on the path; None without one."""
    if os.name != "posix":  # the sources use GCC's and Clang's vector extensions
        return None
    named = os.environ.get("CXX")
    return next(
        (found for name in (named, "c++", "g++", "clang++") if name and (found := shutil.which(name))), None
    )


def build(target: Path, names: Sequence[str] | None = None) -> tuple[list[Path], list[str]]:
    """Compile the kernels into ``target``; return the libraries made and what the compiler said about the others.

    Each library is written aside and renamed, so that a process that has loaded the old one is not disturbed.
    """
    program = compiler()
    if program is None:
        return [], ["no C++ compiler on the path"]
    sources = sorted(str(path) for path in KERNELS.glob("*.cpp"))
    made: list[Path] = []
    failures: list[str] = []
    for name, flags in variants().items():
        if names is not None and name not in names:
            continue
        library = target / f"{name}.so"
        aside = target / f"{name}.{os.getpid()}.tmp"
        done = subprocess.run(
            [program, *FLAGS, *flags, *sources, "-o", str(aside)], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            aside.replace(library)
            made.append(library)
        else:
            aside.unlink(missing_ok=True)
            failures.append(f"{name}: {done.stderr.strip()}")
    return made, failures


if BuildHookInterface is not None:

    class KernelHook(BuildHookInterface[Any]):  # pyright: ignore[reportUntypedBaseClass]
        """Compiles before a wheel (also an editable one) is put together, and names the platform in its tag."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
            """Build the kernels and add them to the wheel; leave it pure when none could be built."""
            made, failures = build(KERNELS)
            for failure in failures:
                self.app.display_warning(f"weft.native, {failure}")
            if not made:
                return
            system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{system}"
            build_data["artifacts"] += [f"src/weft/native/kernels/{path.name}" for path in made]


def main() -> int:
    """Build in place and say what was made."""
    made, failures = build(KERNELS)
    for path in made:
        print(path.relative_to(KERNELS.parents[3]))  # noqa: T201
    for failure in failures:
        print(failure, file=sys.stderr)  # noqa: T201
    return 0 if made else 1


if __name__ == "__main__":
    raise SystemExit(main())
