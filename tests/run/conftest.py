"""A run of two stages and three tasks of different kinds on a tiny BERT, small enough to be trained many times."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Compute with one thread, as the processes that are killed do: sums over more threads have other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def little() -> ModuleType:
    """Return ``little.py``: under ``--import-mode=importlib`` neighbours cannot be imported by name."""
    path = Path(__file__).with_name("little.py")
    spec = importlib.util.spec_from_file_location("weft_little", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def job(little: ModuleType, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the little recipe with its data; treat the folder as read-only."""
    return little.write_job(tmp_path_factory.mktemp("job"), tiny_bert)


@pytest.fixture(scope="session")
def unbroken(little: ModuleType, job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the little run, never stopped; treat it as read-only."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    little.run(job, folder)
    return folder
