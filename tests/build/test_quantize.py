"""Adapters on a base in few bits: what is learnt is what is learnt on the weights that it stands for; the rest is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from weft.build.estimate import Machine, stage_plans
from weft.build.network import load_values
from weft.build.stage import enter, rehearse
from weft.core import linear
from weft.core.parts import Parts
from weft.core.quantized import is_quantized
from weft.errors import RecipeError
from weft.export.bundle import open_bundle, put_parts, write_bundle
from weft.recipe.spec import Quantize
from weft.run.probe import EVERYBODY, probe
from weft.strategy.adapters import extract

BOTH = pytest.mark.parametrize("how", ["int8", "nf4"])
STRATEGIES = {
    "lora": [{"train": "lora", "rank": 2}],
    "dora": [{"train": "dora", "rank": 2, "sites": "attention"}],
    "ia3": "ia3",
    "houlsby": "houlsby",
    "peft": [{"train": "peft", "method": "HRA", "options": {"r": 2}, "sites": "ffn"}],
    "bias": "bias",
}


@pytest.fixture(scope="module")
def open_few(kit, files, tiny_bert, quick_trunks):
    """Return a function from the bits and stages to a kit."""

    def opener(how, *stages):
        recipe = kit.make_recipe(tiny_bert, stages, {"mood": kit.MOOD, "names": kit.NAMES})
        model = recipe.model.model_copy(update={"quantize": Quantize(how)})
        return kit.open_kit(recipe.model_copy(update={"model": model}), root=files)

    return opener


def stage(strategy, name="one", **rest):
    return {"name": name, "strategy": strategy, "batch": 6, "lr": 1e-2, **rest}


def whole_of(sites):
    """Return the weights that those in few bits stand for, by path."""
    fixed = [site.path for site in sites.view.sites if any(info.is_fixed for info in site.params)]
    return {f"{path}.weight": linear.dense(sites.module(path)).clone() for path in fixed}


def on_whole(kit, values, name="one"):
    """Return the stage entered on a whole base whose weights are ``values``."""
    base = replace(kit.base, quantize=None)
    return enter(
        kit.recipe,
        kit.recipe.stage(name),
        base=base,
        tasks=kit.data.fitted,
        parts=Parts(delta=values),
        device=torch.device("cpu"),
    )


@BOTH
def test_linear_weights_of_the_layers_are_in_few_bits_and_no_others(open_few, how):
    kit = open_few(how, stage("lora"))
    entered = kit.enter("one")
    few = {path.removesuffix(".weight") for path in whole_of(entered.sites)}
    parts = [f"attention.{part}" for part in ("query", "key", "value", "output")] + ["ffn.up", "ffn.down"]
    assert few == {f"layers.{layer}.{part}" for layer in (0, 1) for part in parts}
    assert all(is_quantized(entered.sites.module(path)) for path in few)
    ((_, rehearsed),) = kit.rehearse()
    assert rehearsed.sites.view == entered.sites.view


@BOTH
@pytest.mark.parametrize("name", STRATEGIES)
def test_what_is_learnt_is_what_is_learnt_on_the_weights_that_are_kept(open_few, how, name):
    kit = open_few(how, stage(STRATEGIES[name]))
    few = kit.enter("one")
    whole = on_whole(kit, whole_of(few.sites))
    results = [kit.trained(entered, "one") for entered in (few, whole)]
    losses = [[float(total) for one in steps for total in one.totals.values()] for steps in results]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    ours, theirs = (dict(entered.sites.parameters()) for entered in (few, whole))
    moved = [row.path for row in few.table.trained()]
    assert moved == [row.path for row in whole.table.trained()]
    for path in moved:
        assert torch.allclose(ours[path], theirs[path], rtol=1e-4, atol=1e-5), path


@BOTH
def test_full_training_is_refused_when_the_recipe_is_checked(open_few, how):
    kit = open_few(how, stage("full"))
    with pytest.raises(RecipeError, match="must be frozen, as it is kept in few bits") as caught:
        kit.rehearse()
    assert "layers.0.attention.query.weight" in str(caught.value)


def test_a_start_from_singular_values_is_refused(open_few):
    with pytest.raises(RecipeError, match="pissa needs a weight that can give something up"):
        open_few("int8", stage("pissa")).rehearse()


def test_merging_into_few_bits_is_refused_and_stacking_is_not(open_few):
    second = stage("lora", "two", carry={"trunk": "merge"})
    with pytest.raises(RecipeError, match="must be whole to take an adapter in"):
        open_few("nf4", stage("lora"), second).rehearse()
    assert len(open_few("nf4", stage("lora"), {**second, "carry": {"trunk": "stack"}}).rehearse()) == 2


@BOTH
def test_a_bundle_answers_on_few_bits_and_may_be_opened_on_whole_weights(open_few, how, tmp_path, tiny_bert):
    kit = open_few(how, stage("lora"))
    entered = kit.enter("one")
    kit.trained(entered, "one")
    write_bundle(
        tmp_path, entered.leave(), base=kit.base, model=kit.recipe.model, tokenizer=kit.tokenizer, about={}
    )
    opened = open_bundle(tmp_path, precision="fp32")
    assert str(opened.base.quantize) == how
    expected = probe(entered.sites)[EVERYBODY]
    assert torch.allclose(probe(opened.sites)[EVERYBODY], expected, atol=1e-6)
    whole = open_bundle(tmp_path, precision="fp32", keeps_whole=True)
    difference = (probe(whole.sites)[EVERYBODY] - expected).norm() / expected.norm()
    assert 1e-4 < difference < (0.02 if how == "int8" else 0.2)
    # The same adapter on the weights that the few bits stand for answers as it was trained.
    (state,) = extract(entered.sites, ["one"])
    base = replace(kit.base, quantize=None)
    network = base.network(kit.data.fitted, device=torch.device("cpu"))
    load_values(base.sites(network), whole_of(entered.sites))
    parts = replace(opened.parts, delta={}, adapters=(state,))
    assert torch.allclose(probe(put_parts(base, network, parts))[EVERYBODY], expected, atol=1e-5)


def test_a_plan_counts_a_byte_for_a_value_in_few_bits(open_few):
    needed, saved = [], 0
    for how in ("int8", None):
        kit = open_few(how or "int8", stage("lora"))
        base = kit.base if how else replace(kit.base, quantize=None)
        stages = rehearse(kit.recipe, base=base, tasks=kit.data.fitted)
        needed.append(
            stage_plans(kit.recipe, stages, kit.data, Machine(flops=1e9, dtype=torch.float32))[0].memory_bytes
        )
        few = sum(
            info.size for site in stages[0][1].sites.view.sites for info in site.params if info.is_fixed
        )
        assert (few > 0) == bool(how)
        saved = few or saved
    assert needed[1] - needed[0] == 3 * saved
