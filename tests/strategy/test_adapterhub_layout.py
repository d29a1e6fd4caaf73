"""Folders of the ``adapters`` library, written by hand as it documents them, against its forward pass written plainly."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from weft.core.network import Network
from weft.core.sites import SiteMap
from weft.errors import StrategyError
from weft.export.parts import load_parts
from weft.model.describe import describe
from weft.strategy import adapterhub_layout
from weft.strategy.adapters import extract, restore
from weft.strategy.apply import apply
from weft.strategy.bottleneck import BottleneckRule, Form
from weft.strategy.plan import plan

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 50,
    "max_position_embeddings": 20,
}
COMMON = {
    "adapter_residual_before_ln": False,
    "cross_adapter": False,
    "inv_adapter": None,
    "inv_adapter_reduction_factor": None,
    "leave_out": [],
    "ln_after": False,
    "ln_before": False,
    "mh_adapter": False,
    "original_ln_after": True,
    "original_ln_before": False,
    "output_adapter": True,
    "reduction_factor": 4,
    "residual_before_ln": True,
}
CONFIGS = {
    "houlsby": {**COMMON, "mh_adapter": True, "non_linearity": "swish"},
    "pfeiffer": {**COMMON, "original_ln_before": True, "non_linearity": "relu"},
    "behind": {**COMMON, "non_linearity": "tanh"},
    "parallel": {**COMMON, "is_parallel": True, "scaling": 4.0, "non_linearity": "relu"},
}
FORMS = {"houlsby": "houlsby", "pfeiffer": "normed", "behind": "pfeiffer", "parallel": "parallel"}
ACTS = {"swish": F.silu, "relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh}
LEGACY = {"output": "layer_text_task_adapters", "attention.output": "attention_text_task_adapters"}
TOKENS_BL = torch.randint(3, 50, (2, 7), generator=torch.Generator().manual_seed(1))


class Holder(nn.Module):
    """What a network needs of a trunk to be described."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


def model_of(kind: str = "bert") -> nn.Module:
    torch.manual_seed(0)
    made = BertModel(BertConfig(**SIZES)) if kind == "bert" else RobertaModel(RobertaConfig(**SIZES))
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


def blocks_of(config: dict) -> list[str]:
    places = ["attention.output"] * config["mh_adapter"] + ["output"] * config["output_adapter"]
    return [f"encoder.layer.{layer}.{place}" for layer in (0, 1) for place in places]


def weights_of(config: dict) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors by block and name within the library's module."""
    generator = torch.Generator().manual_seed(2)
    shapes = {
        "adapter_down.0.weight": (4, 16),
        "adapter_down.0.bias": (4,),
        "adapter_up.weight": (16, 4),
        "adapter_up.bias": (16,),
    }
    return {
        f"{block} {name}": torch.randn(shape, generator=generator) * 0.5
        for block in blocks_of(config)
        for name, shape in shapes.items()
    }


def write(folder: Path, config: dict, *, kind: str = "bert", legacy: bool = False, **more) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    about = {"config": config, "hidden_size": 16, "model_type": kind, "model_name": "x", "name": "theirs"}
    (folder / "adapter_config.json").write_text(json.dumps({**about, **more}))
    tensors = {}
    for key, tensor in weights_of(config).items():
        block, name = key.split(" ")
        holder = LEGACY[block.split(".", 3)[3]] if legacy else "adapters"
        tensors[f"{kind}.{block}.{holder}.theirs.{name}"] = tensor
    save_file(tensors, folder / "adapter.safetensors")
    return folder


def their_states(model: nn.Module, config: dict) -> torch.Tensor:
    """Return what the library computes: in each block, before or on the stock norm, the adapter and its residual."""
    tensors = weights_of(config)

    def forward(block: nn.Module, hidden, entered, *, name: str):
        hidden = block.dense(hidden)
        own = {key.split(" ")[1]: tensor for key, tensor in tensors.items() if key.startswith(f"{name} ")}
        read = block.LayerNorm(hidden + entered) if config["original_ln_before"] else hidden
        read = entered if config.get("is_parallel") else read
        down = F.linear(read, own["adapter_down.0.weight"], own["adapter_down.0.bias"])
        up = F.linear(
            ACTS[config["non_linearity"]](down), own["adapter_up.weight"], own["adapter_up.bias"]
        ) * config.get("scaling", 1.0)
        return block.LayerNorm(up + hidden + entered)

    for name in blocks_of(config):
        block = model.get_submodule(name)
        block.forward = types.MethodType(
            lambda own, hidden, entered, name=name: forward(own, hidden, entered, name=name), block
        )
    with torch.no_grad():
        return model(input_ids=TOKENS_BL).last_hidden_state


def mapped(model: nn.Module) -> SiteMap:
    network = Network(Holder(model), {}).eval()
    return SiteMap(network, describe(network))


def by_raw(sites: SiteMap) -> dict:
    return {site.raw: site for site in sites.view.sites}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("name", CONFIGS)
def test_an_adapter_computes_what_it_computed_there(tmp_path, name, kind, legacy):
    sites = mapped(model_of(kind))
    plain = sites.network.trunk.model(input_ids=TOKENS_BL).last_hidden_state
    folder = write(tmp_path / "mine", CONFIGS[name], kind=kind, legacy=legacy)
    assert adapterhub_layout.is_here(folder)
    state = adapterhub_layout.read(folder, sites=by_raw(sites))
    assert (state.name, state.method) == ("mine", "adapter")
    assert {one["form"] for one in state.config["sites"].values()} == {FORMS[name]}
    assert len(state.config["sites"]) == len(blocks_of(CONFIGS[name]))
    restore(sites, state)
    with torch.no_grad():
        found = sites.network.trunk.model(input_ids=TOKENS_BL).last_hidden_state
    expected = their_states(model_of(kind), CONFIGS[name])
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-2)


def test_a_bundle_may_hold_such_a_folder(tmp_path):
    sites = mapped(model_of())
    write(tmp_path / "adapters" / "theirs", CONFIGS["pfeiffer"])
    (tmp_path / "parts.json").write_text(json.dumps({"adapters": ["theirs"], "heads": []}))
    (state,) = load_parts(tmp_path, sites.view).adapters
    assert state.method == "adapter"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"ln_after": True}, "ln_after must be false, but is true"),
        ({"ln_before": True}, "ln_before must be false"),
        ({"original_ln_after": False}, "original_ln_after must be true"),
        ({"residual_before_ln": "post_add"}, "residual_before_ln must be true"),
        ({"inv_adapter": "nice"}, "inv_adapter must be null"),
        ({"phm_layer": True}, "phm_layer must be false"),
        ({"use_gating": True}, "use_gating must be false"),
        ({"scaling": "learned"}, "scaling must be a number above 0"),
        ({"non_linearity": "leakyrelu"}, "non_linearity must be known here"),
        ({"mh_adapter": True}, "mh_adapter must be false with original_ln_before"),
    ],
)
def test_what_weft_does_not_have_is_refused_by_name(tmp_path, change, why):
    folder = write(tmp_path / "x", {**CONFIGS["pfeiffer"], **change})
    with pytest.raises(StrategyError, match=why):
        adapterhub_layout.read(folder, sites=by_raw(mapped(model_of())))


def test_other_models_and_methods_are_refused(tmp_path):
    sites = by_raw(mapped(model_of()))
    with pytest.raises(StrategyError, match="model_type must be one whose adapters sit"):
        adapterhub_layout.read(write(tmp_path / "a", CONFIGS["houlsby"], model_type="gpt2"), sites=sites)
    folder = write(tmp_path / "b", CONFIGS["houlsby"])
    about = {"config": {"architecture": "prefix_tuning"}, "model_type": "bert"}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    with pytest.raises(StrategyError, match="config must be that of a bottleneck adapter"):
        adapterhub_layout.read(folder, sites=sites)


def test_pickle_is_not_read_and_the_way_out_is_said(tmp_path):
    folder = write(tmp_path / "x", CONFIGS["houlsby"])
    (folder / "adapter.safetensors").rename(folder / "pytorch_adapter.bin")
    with pytest.raises(StrategyError, match=r"pickle, which can run code.*weights_only=True"):
        adapterhub_layout.read(folder, sites=by_raw(mapped(model_of())))
    (folder / "pytorch_adapter.bin").unlink()
    with pytest.raises(StrategyError, match="must be a safetensors file"):
        adapterhub_layout.read(folder, sites=by_raw(mapped(model_of())))


def test_tensors_must_be_whole_and_of_this_model(tmp_path):
    sites = by_raw(mapped(model_of()))
    folder = write(tmp_path / "x", CONFIGS["behind"])
    good = {f"bert.{key.replace(' ', '.adapters.x.')}": t for key, t in weights_of(CONFIGS["behind"]).items()}
    for bad, why in (
        (
            {**good, "bert.invertible_adapters.x.F.0.weight": torch.zeros(1)},
            "every tensor must be of a bottleneck",
        ),
        ({**good, next(iter(good)): torch.full((4, 16), torch.nan)}, "must hold finite numbers"),
        (dict(list(good.items())[:-1]), "must have bottleneck_up_bias"),
        ({}, "must hold at least one adapter"),
    ):
        save_file(bad, folder / "adapter.safetensors")
        with pytest.raises(StrategyError, match=why):
            adapterhub_layout.read(folder, sites=sites)


def test_gelu_is_read_where_it_is_clear_which(tmp_path):
    sites = mapped(model_of())
    config = {**COMMON, "non_linearity": "gelu"}
    restore(sites, adapterhub_layout.read(write(tmp_path / "new", config), sites=by_raw(sites)))
    with torch.no_grad():
        found = sites.network.trunk.model(input_ids=TOKENS_BL).last_hidden_state
    assert torch.allclose(found, their_states(model_of(), config), rtol=1e-5, atol=1e-5)
    with pytest.raises(StrategyError, match="gelu may be another function"):
        adapterhub_layout.read(write(tmp_path / "old", config, legacy=True), sites=by_raw(sites))


def test_peft_folders_are_not_taken_for_theirs(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "config": {}}))
    assert not adapterhub_layout.is_here(tmp_path)
    assert not adapterhub_layout.is_here(tmp_path / "nowhere")


class TestNormed:
    def test_it_is_trained_too(self):
        sites = mapped(model_of())
        before = sites.network.trunk.model(input_ids=TOKENS_BL).last_hidden_state
        rule = BottleneckRule(form=Form.NORMED, size=3)
        made = plan(sites.view, [rule], tasks=(), stage_lr=None, adapter="x")
        sites, table = apply(sites, made, describe=describe, seed=0)
        after = sites.network.trunk.model(input_ids=TOKENS_BL).last_hidden_state
        assert torch.equal(before, after)
        after.square().sum().backward()
        parameters = dict(sites.parameters())
        ups = [row.path for row in table.trained() if "bottleneck_up." in row.path]
        assert len(ups) == 2
        assert all(parameters[path].grad.abs().max() > 0 for path in ups)
        (state,) = extract(sites, table)
        assert {one["form"] for one in state.config["sites"].values()} == {"normed"}

    def test_it_needs_a_norm_behind_the_block(self):
        sites = mapped(model_of())
        rule = BottleneckRule(form=Form.NORMED, sites="attention.output")
        made = plan(sites.view, [rule], tasks=(), stage_lr=None, adapter="x")
        with pytest.raises(StrategyError, match=r"must stand at ffn\.down of a layer with a norm behind it"):
            apply(sites, made, describe=describe, seed=0)
