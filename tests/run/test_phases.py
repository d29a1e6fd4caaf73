"""Stages in which what moves changes: the right parameters at the right time, and resumed to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from weft.run.events import Saved
from weft.run.folder import RunFolder

STEPS = 8


@pytest.fixture
def run(little, tiny_bert, tmp_path):
    """Return a function that runs one stage and gives back what moved in each of its steps, by path."""

    def run(strategy: str, **keys: object) -> list[set[str]]:
        more = "".join(f", {key}: {value}" for key, value in keys.items())
        stage = (
            f"  - {{name: one, strategy: {strategy}, length: {STEPS} steps, batch: 8, lr: 1e-2, "
            f"schedule: constant, warmup: 0, evaluate: {STEPS} steps, save: 1 steps{more}}}\n"
        )
        recipe = little.recipe_of(stage, tasks=tuple(little.TASKS), keep=100)
        job = little.write_job(tmp_path, tiny_bert, recipe)
        events = little.run(job, tmp_path / "run")
        assert len(little.of_kind(events, Saved)) >= STEPS
        return [_moved(tmp_path / "run", step) for step in range(2, STEPS + 1)]

    return run


def _moved(folder: Path, step: int) -> set[str]:
    before, after = (_weights(folder, number) for number in (step - 1, step))
    return {path for path, tensor in after.items() if not torch.equal(before[path], tensor)}


def _weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    (path,) = (folder / f"stages/one/checkpoints/step-{step:08d}").glob("trained.safetensors")
    return load_file(path)


def layers(moved: set[str]) -> set[str]:
    return {".".join(path.split(".")[:2]) for path in moved if path.startswith("layers.")}


def test_heads_first_then_all(run):
    moved = run(
        "lp-ft"
    )  # from 0.3 on: the first three steps are the heads' (0, 1/8, 2/8 are done before them)
    assert all(path.startswith("heads.") for step in moved[:2] for path in step)
    assert all("layers.0.attention.query.weight" in step for step in moved[2:])
    assert all("embeddings.word.weight" in step for step in moved[2:])


def test_layers_join_from_the_top(run):
    moved = run("[{train: full, gradual: 0.75}]")
    firsts = {
        name: next(number for number, step in enumerate(moved) if any(path.startswith(name) for path in step))
        for name in ("heads", "layers.1", "layers.0", "embeddings")
    }
    assert firsts["heads"] < firsts["layers.1"] < firsts["layers.0"] < firsts["embeddings"]


def test_layers_by_turns(run):
    moved = run("[{train: lisa, layers: 1, every: 1}]")
    found = [layers(step) for step in moved]
    assert all(len(step) == 1 for step in found)
    assert len(set(map(frozenset, found))) == 2, "both had a turn"
    assert all("embeddings.word.weight" in step for step in moved)


def test_lower_layers_learn_more_slowly(little, tiny_bert, tmp_path, run):
    run("[{train: full, layer_decay: 0.1}]")
    first, last = _weights(tmp_path / "run", 1), _weights(tmp_path / "run", 2)
    moves = {
        layer: (last[f"{layer}.attention.query.weight"] - first[f"{layer}.attention.query.weight"])
        .abs()
        .mean()
        for layer in ("layers.0", "layers.1")
    }
    assert 0.05 < moves["layers.0"] / moves["layers.1"] < 0.2


@pytest.fixture(scope="module")
def whole(little, tiny_bert, tmp_path_factory):
    """Return the folder of a job, and in it that of its run, never stopped."""
    home = tmp_path_factory.mktemp("whole")
    little.run(little.write_job(home, tiny_bert, little.STRATEGIES_RECIPE), home / "run")
    return home


@pytest.mark.parametrize("stop_at", [1, 7, 14, 21, 25])
def test_resumed_in_any_phase_to_the_same_bits(little, whole, tmp_path, stop_at):
    from weft.build.catalogue import open_recipe
    from weft.run import session

    folder, saved = RunFolder(tmp_path / "broken"), 0
    events = session.train(open_recipe(whole / "recipe.yaml"), folder, root=whole)
    for event in events:
        saved += isinstance(event, Saved)
        if saved == stop_at:
            break
    events.close()
    little.resume(tmp_path / "broken")
    assert little.differences(tmp_path / "broken", whole / "run") == []
