"""Logits and gradients are those of PEFT for the methods that both have, in fp32, on real and random models."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModel, T5Config, T5Model

from weft.core.network import Network
from weft.core.sites import SiteMap
from weft.model.describe import describe
from weft.model.folder import locate
from weft.strategy.base import AdapterRule
from weft.strategy.dora import DoraRule
from weft.strategy.ia3 import Ia3Rule
from weft.strategy.lora import LoraRule
from weft.strategy.registry import adapter_method
from weft.strategy.selector import select_sites

TOLERANCE = 1e-5
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
RULES: dict[str, AdapterRule] = {
    "lora": LoraRule(rank=4),
    "rslora": LoraRule(rank=4, rslora=True),
    "dora": DoraRule(rank=4),
    "ia3": Ia3Rule(),
}
MODELS = ("minilm", "stories260k", "t5")


class Holder(nn.Module):
    """What a network needs of a trunk to be described."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


@pytest.fixture(scope="module")
def load(stories260k: Path):
    def load(name: str) -> nn.Module:
        torch.manual_seed(0)
        if name == "t5":
            sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 90}
            return T5Model(T5Config(**sizes, dropout_rate=0.0)).eval()
        path = locate("minilm", None, root=Path.cwd()).path if name == "minilm" else stories260k
        return AutoModel.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()

    return load


def states(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    tokens_BL = torch.randint(5, 80, (3, 12), generator=generator)
    more = {"decoder_input_ids": tokens_BL[:, :7]} if model.config.is_encoder_decoder else {}
    return model(input_ids=tokens_BL, **more).last_hidden_state


def config_of(name: str, raws: list[str], down: list[str]) -> LoraConfig | IA3Config:
    if name == "ia3":
        return IA3Config(target_modules=raws, feedforward_modules=down)
    options = {"rslora": {"use_rslora": True}, "dora": {"use_dora": True}}.get(name, {})
    return LoraConfig(r=4, lora_alpha=8, target_modules=raws, **options)


def theirs(name: str, module: nn.Module) -> dict[str, torch.Tensor]:
    """Return PEFT's parameters at one module under the names of our tables."""
    if name == "ia3":
        return {"ia3_l": module.ia3_l["default"]}
    word = "dora" if name == "dora" else "lora"
    found = {f"{word}_A": module.lora_A["default"].weight, f"{word}_B": module.lora_B["default"].weight}
    if name == "dora":
        found["dora_magnitude"] = module.lora_magnitude_vector["default"].weight
    return found


@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.parametrize("name", RULES)
def test_states_and_gradients_are_those_of_peft(load, name, model_name):
    rule, model = RULES[name], load(model_name)
    network = Network(Holder(copy.deepcopy(model)), {}).eval()
    network.requires_grad_(requires_grad=False)
    sites = SiteMap(network, describe(network))
    method = adapter_method(rule.train)
    chosen = [
        sites.site(path)
        for path in select_sites(sites.view, rule.sites)
        if sites.site(path).kind in method.kinds and "relative_bias" not in path
    ]
    assert len(chosen) > 3
    raws = [site.raw for site in chosen]
    model.requires_grad_(requires_grad=False)
    wrapped = get_peft_model(
        model, config_of(name, raws, [s.raw for s in chosen if s.path.endswith("ffn.down")])
    )
    modules = dict(wrapped.base_model.model.named_modules())
    generator = torch.Generator().manual_seed(1)
    for site in chosen:
        method.install(sites, site, rule, adapter="x", seed=0)
        module = sites.module(site.path)
        with torch.no_grad():
            for table, tensor in theirs(name, modules[site.raw]).items():
                tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
                getattr(module, table)["x"].copy_(tensor.reshape(getattr(module, table)["x"].shape))
                getattr(module, table)["x"].requires_grad_()
    found, expected = states(network.trunk.model), states(wrapped.base_model.model)
    assert (found - expected).norm() <= TOLERANCE * expected.norm()
    base = states(load(model_name))
    assert (base - expected).norm() > 1e-3 * expected.norm(), "the adapter does something"
    weights = torch.randn(
        found.shape, generator=generator
    )  # a sum of squares behind a norm hardly depends on anything
    gradients = []
    for out in (found, expected):
        (out * weights).sum().backward()
    for site in chosen:
        for table, tensor in theirs(name, modules[site.raw]).items():
            ours = getattr(sites.module(site.path), table)["x"].grad
            assert (ours is None) == (tensor.grad is None), (site.path, table)
            if ours is not None:
                gradients.append((ours.flatten(), tensor.grad.flatten()))
    assert len(gradients) > len(chosen) / 2
    ours, other = (torch.cat(side) for side in zip(*gradients, strict=True))
    assert (ours - other).norm() <= TOLERANCE * other.norm()


def test_merging_ten_times_changes_nothing_where_peft_drifts(load):
    model = load("minilm")
    plain = {name: value.detach().clone() for name, value in model.named_parameters()}
    raws = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    peers = get_peft_model(copy.deepcopy(model), LoraConfig(r=4, lora_alpha=8, target_modules=raws))
    network = Network(Holder(model), {}).eval().requires_grad_(requires_grad=False)
    sites = SiteMap(network, describe(network))
    method, rule = adapter_method("lora"), LoraRule(rank=4)
    generator = torch.Generator().manual_seed(5)
    for site in [one for one in sites.view.sites if one.raw in raws]:
        method.install(sites, site, rule, adapter="a", seed=0)
        module, theirs_at = sites.module(site.path), peers.base_model.model.get_submodule(site.raw)
        for table, values in theirs("lora", theirs_at).items():
            values.data.normal_(generator=generator)
            getattr(module, table)["a"].data.copy_(values)
    state = method.extract(sites, "a")
    assert state is not None
    weights = {path: value.detach().clone() for path, value in sites.parameters()}
    once = method.merged(weights, state)
    for _ in range(10):
        again = method.merged(weights, state)
        assert all(torch.equal(again[path], value) for path, value in once.items())
        peers.merge_adapter()
        peers.unmerge_adapter()
    assert all(torch.equal(dict(sites.parameters())[path], value) for path, value in weights.items())
    drift = max(
        float(
            (peers.base_model.model.get_submodule(raw).base_layer.weight - plain[f"{raw}.weight"]).abs().max()
        )
        for raw in raws
    )
    assert drift > 0
