"""The probe sees a change of the function, and only that."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from weft.build.catalogue import open_recipe
from weft.build.network import Base, open_base
from weft.core.sites import SiteMap
from weft.core.view import ModelView, ParamInfo, Site, SiteKind
from weft.errors import HandOverError
from weft.model.folder import locate
from weft.run import probe as module
from weft.run.probe import EVERYBODY, TOLERANCE, check_entry, difference, probe_batch


def probe(sites: SiteMap) -> torch.Tensor:
    """Return the states that all rows get."""
    return module.probe(sites)[EVERYBODY]


@pytest.fixture
def sites(job: Path) -> SiteMap:
    base = open_base(open_recipe(job), root=job.parent)
    return base.sites(base.network({}, device=torch.device("cpu"), dropout=0.5))


def test_states_are_those_of_every_token_and_the_same_each_time(sites: SiteMap):
    sites.network.train()
    states_TD = probe(sites)
    assert states_TD.shape == (probe_batch(100).layout.num_tokens, 32)
    assert torch.equal(states_TD, probe(sites))  # dropout is off
    assert sites.network.training


def test_a_changed_weight_shows(sites: SiteMap):
    before_TD = probe(sites)
    with torch.no_grad():
        dict(sites.parameters())["layers.1.ffn.down.weight"][0, 0] += 0.5
    assert difference(before_TD, probe(sites)) > TOLERANCE


@pytest.mark.parametrize(
    "path", ["decoder.layers.1.ffn.down.weight", "decoder.layers.0.cross_attention.key.weight"]
)
def test_a_change_of_a_decoder_shows_in_what_it_replies(tiny_t5: Path, path: str):
    base = Base(locate(str(tiny_t5), None, root=Path()), wants_lm_head=True, seed=0)
    sites = base.sites(base.network({}, device=torch.device("cpu"), dropout=0.5))
    before_TD = probe(sites)
    assert before_TD.shape == (2 * probe_batch(100).layout.num_tokens, 32)
    assert torch.equal(before_TD, probe(sites))
    with torch.no_grad():
        dict(sites.parameters())[path] += 0.5
    half = len(before_TD) // 2
    assert difference(before_TD[:half], probe(sites)[:half]) == 0, "of the rows, which do not pass it"
    assert difference(before_TD, probe(sites)) > TOLERANCE


def test_difference_is_relative_to_the_largest_state():
    before_TD = torch.tensor([[4.0, -8.0]])
    assert difference(before_TD, before_TD + 0.5) == 0.5 / 8


@pytest.mark.parametrize(
    ("factor", "is_refused"), [(1 + 1e-5, False), (1 + 1e-3, True), (float("nan"), True)]
)
def test_entry_is_refused_beyond_rounding(factor: float, is_refused: bool):
    before_TD = torch.ones(3, 2)
    if not is_refused:
        assert check(before_TD, before_TD * factor) < TOLERANCE
        return
    with pytest.raises(HandOverError, match="stage two: entering must not change what the network computes"):
        check(before_TD, before_TD * factor)


def check(before_TD: torch.Tensor, after_TD: torch.Tensor) -> float:
    return check_entry("two", {EVERYBODY: before_TD}, {EVERYBODY: after_TD}, tasks=["a"])


def test_tasks_are_compared_by_what_their_own_rows_get():
    base, own, moved = torch.ones(3, 2), 2 * torch.ones(3, 2), 3 * torch.ones(3, 2)
    before, after = {EVERYBODY: base, "a": own}, {EVERYBODY: own}
    assert check_entry("two", before, after, tasks=["a"]) == 0
    assert check_entry("two", {EVERYBODY: own}, {EVERYBODY: moved, "a": own}, tasks=["a"]) == 0
    with pytest.raises(HandOverError):
        check_entry("two", before, after, tasks=["a", "b"])


def table(path: str, rows: int) -> Site:
    return Site(path, SiteKind.EMBEDDING, path, (ParamInfo(f"{path}.weight", (rows, 4)),))


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        (
            (table("embeddings.word", 60), table("embeddings.position", 512), table("embeddings.segment", 2)),
            60,
        ),
        ((table("encoder.embeddings.word", 70), table("decoder.embeddings.word", 60)), 60),
        ((table("raw.tokens", 60), table("raw.places", 32)), 32),
    ],
)
def test_tokens_are_in_every_vocabulary(tables: tuple[Site, ...], expected: int):
    view = ModelView("any", tables, {"": 1})
    assert module._vocabulary(view) == expected
    assert int(probe_batch(expected).tokens.max()) < expected


def test_rows_fit_a_trunk_of_few_positions():
    assert probe_batch(50, longest=3).tokens.shape[1] <= 3
    assert probe_batch(50).tokens.shape[1] <= 32


def test_little_model_keeps_its_function_over_the_stages(little: ModuleType, unbroken: Path):
    states = {
        stage: little.load_file(unbroken / "stages" / stage / "final" / "probe.safetensors")["states."]
        for stage in little.STAGES
    }
    assert difference(states["together"], states["alone"]) > TOLERANCE  # training did something
