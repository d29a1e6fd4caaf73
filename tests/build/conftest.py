"""Gives the tests of this folder ``kit.py``: under ``--import-mode=importlib`` neighbours cannot be imported by name."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import weft.build.network


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("weft_build_kit", Path(__file__).with_name("kit.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def files(kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the shared data files; treat it as read-only."""
    return kit.write_files(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def open_kit(kit: ModuleType, files: Path, tiny_bert: Path) -> Any:
    """Return a function that opens stages (and tasks, by default mood and names) on the tiny BERT."""

    def opener(
        stages: Sequence[Mapping[str, Any]], tasks: Mapping[str, Mapping[str, Any]] | None = None, **rest: Any
    ) -> Any:
        chosen = {"mood": kit.MOOD, "names": kit.NAMES} if tasks is None else tasks
        return kit.open_kit(kit.make_recipe(tiny_bert, stages, chosen, **rest), root=files)

    return opener


@pytest.fixture(scope="module")
def quick_trunks(kit: ModuleType) -> Iterator[None]:
    """Read each model once and hand out copies."""
    trunks = kit.Trunks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weft.build.network, "load_trunk", trunks.load)
        patch.setattr(weft.build.network, "empty_trunk", trunks.empty)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Models are so tiny here that threads would only wait for each other."""
    torch.set_num_threads(1)
