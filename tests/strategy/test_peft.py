"""Tuners of PEFT at sites of real models: what they compute, their gradients, folders and merged weights are PEFT's."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

from weft.core.network import Network
from weft.core.sites import SiteMap
from weft.core.table import Role
from weft.errors import StrategyError
from weft.model.describe import describe
from weft.model.folder import locate
from weft.strategy import peft_config, peft_folder, peft_tuner
from weft.strategy.adapters import extract, merged, restore
from weft.strategy.apply import apply
from weft.strategy.edit import options_at
from weft.strategy.peft import PeftRule, PeftSite
from weft.strategy.plan import plan

TOLERANCE = 1e-5
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft.*"),  # hints of its layers
]
RULES = {
    "BEFT": {"sites": "linear"},
    "BOFT": {"options": {"boft_block_size": 4}},
    "C3A": {"options": {"block_size": 4}},
    "FOURIERFT": {"options": {"n_frequency": 64}},
    "GRALORA": {"options": {"r": 8, "alpha": 8}},
    "HIRA": {"options": {"r": 4}},
    "HRA": {"options": {"r": 4}},
    "LN_TUNING": {"sites": "norm"},
    "LOHA": {"options": {"r": 4}},
    "LOKR": {"options": {"r": 4}},
    "MISS": {"options": {"r": 4}},
    "OFT": {"options": {"oft_block_size": 8}},
    "PEANUT": {"options": {"r": 4}},
    "PSOFT": {"options": {"r": 8}, "sites": "ffn"},
    "RANDLORA": {"options": {"r": 8}},
    "ROAD": {"options": {"group_size": 4}},
    "SHIRA": {"options": {"r": 2}},
    "VERA": {"options": {"r": 16}},
    "WAVEFT": {"options": {"n_frequency": 64}},
}
ON_MINILM = ("BEFT", "LOHA", "VERA")
CASES = [*((name, "stories260k") for name in RULES), *((name, "minilm") for name in ON_MINILM)]
NOT_WEIGHTS = {("BEFT", "stories260k")}  # biases where there are none


class Holder(nn.Module):
    """What a network needs of a trunk to be described."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


@pytest.fixture(scope="module")
def load(stories260k: Path):
    models: dict[str, nn.Module] = {}

    def load(name: str) -> nn.Module:
        if name not in models:
            path = locate("minilm", None, root=Path.cwd()).path if name == "minilm" else stories260k
            models[name] = AutoModel.from_pretrained(
                path, dtype=torch.float32, attn_implementation="eager"
            ).eval()
        return copy.deepcopy(models[name])

    return load


def states(model: nn.Module) -> torch.Tensor:
    tokens_BL = torch.randint(5, 80, (2, 9), generator=torch.Generator().manual_seed(3))
    return model(input_ids=tokens_BL).last_hidden_state


def rule_of(word: str) -> PeftRule:
    return PeftRule(method=word, **RULES[word])


def adapted(model: nn.Module, rule: PeftRule, *, seed: int = 0):
    """Return a map of ``model`` with a new adapter ``x``, and its table."""
    network = Network(Holder(model), {}).eval()
    sites = SiteMap(network, describe(network))
    made = plan(sites.view, [rule], tasks=(), stage_lr=1e-3, adapter="x")
    return apply(sites, made, describe=describe, seed=seed)


def move(sites, table) -> None:
    generator = torch.Generator().manual_seed(1)
    parameters = dict(sites.parameters())
    for row in table.trained():
        with torch.no_grad():
            parameters[row.path] += 0.05 * torch.randn(row.shape, generator=generator)


def write(folder: Path, sites, state) -> Path:
    peft_folder.write(folder / "x", state, sites=sites.view.sites, base="", task_type=None)
    return folder / "x"


@pytest.mark.parametrize(("word", "model_name"), CASES)
def test_states_gradients_folder_and_merge_are_those_of_peft(load, tmp_path, word, model_name):
    model = load(model_name)
    before = states(model)
    sites, table = adapted(model, rule_of(word))
    assert (states(model) - before).norm() <= TOLERANCE * before.norm()
    move(sites, table)
    (state,) = extract(sites, ["x"])
    folder = write(tmp_path, sites, state)
    theirs = PeftModel.from_pretrained(load(model_name), str(folder), is_trainable=True).eval()
    found, expected = states(model), states(theirs.base_model.model)
    assert (found - expected).norm() <= TOLERANCE * expected.norm()
    assert (found - before).norm() > 1e-4 * before.norm(), "the adapter does something"

    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(5))
    for out in (found, expected):
        (out * weights).sum().backward()
    own, pairs = dict(sites.parameters()), []
    for path in state.config["sites"]:
        layer = theirs.base_model.model.get_submodule(sites.site(path).raw)
        for local, slot in peft_tuner.slots(layer).items():
            ours = own[f"{path}.peft_{local.replace('.', '_')}.x"].grad
            assert (ours is None) == (slot.holder[slot.key].grad is None), (path, local)
            if ours is not None:
                pairs.append((ours.flatten(), slot.holder[slot.key].grad.flatten()))
    ours, other = (torch.cat(side) for side in zip(*pairs, strict=True))
    assert len(pairs) > 0.9 * len(table.trained())  # nothing reads MiniLM's pooler here
    assert (ours - other).norm() <= TOLERANCE * other.norm()

    read = peft_folder.read(folder, sites={site.raw: site for site in sites.view.sites})
    assert read.config == state.config
    assert read.tensors.keys() == state.tensors.keys()
    assert all(torch.equal(read.tensors[path], tensor) for path, tensor in state.tensors.items())

    values = {path: tensor.detach() for path, tensor in own.items()}
    if (word, model_name) in NOT_WEIGHTS:
        with pytest.raises(
            StrategyError, match=f"must be a change of weights to be merged, but {word} is none"
        ):
            merged(values, [state])
        return
    plain = load(model_name)
    folded = merged(values, [state])
    assert merged(values, [state]).keys() == folded.keys()
    for path, value in folded.items():
        site, _, local = path.rpartition(".")
        plain.get_submodule(sites.site(site).raw)._parameters[local].data.copy_(value)
    assert (states(plain) - found).norm() <= TOLERANCE * found.norm()


def test_all_tuners_are_tried_or_refused():
    """A new version of PEFT may bring tuners: they must be looked at."""
    refused = {
        "ADAPTION_PROMPT",
        "DEFT",
        "DELORA",
        "FROD",
        "GLORA",
        "LILY",
        "OSF",
        "POLY",
        "PVERA",
        "SUPERTUNING",
    }
    refused |= {"TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA"}
    assert set(peft_config.names()) <= set(RULES) | refused


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("DELORA", "some is made of the weights"),
        ("VBLORA", "some of its are shared"),
        ("POLY", "task_ids should not be None"),
    ],
)
def test_what_cannot_stand_at_a_site_is_refused_when_it_is_planned(load, word, why):
    with pytest.raises(StrategyError, match=why):
        adapted(
            load("stories260k"),
            PeftRule(method=word, options={"vector_length": 8} if word == "VBLORA" else {}),
        )


def test_a_restored_adapter_computes_the_same(load):
    model = load("stories260k")
    sites, table = adapted(model, rule_of("VERA"))
    move(sites, table)
    (state,) = extract(sites, table)
    other = load("stories260k")
    network = Network(Holder(other), {}).eval()
    restore(SiteMap(network, describe(network)), state)
    assert torch.equal(states(other), states(model))


def test_initial_values_follow_from_the_seed(load):
    first, second, again = (
        extract(adapted(load("stories260k"), rule_of("LOHA"), seed=seed)[0], ["x"])[0] for seed in (0, 1, 0)
    )
    key = next(path for path in first.tensors if "hada_w1_b" in path)
    assert torch.equal(first.tensors[key], again.tensors[key])
    assert not torch.equal(first.tensors[key], second.tensors[key])


def test_frozen_weights_stay_frozen_and_what_peft_draws_is_no_parameter(load):
    sites, table = adapted(load("stories260k"), rule_of("VERA"))
    assert {row.path.split(".")[-2] for row in table.trained()} == {
        "peft_vera_lambda_b",
        "peft_vera_lambda_d",
    }
    parameters = dict(sites.parameters())
    assert all(parameters[row.path].requires_grad == (row.role is Role.TRAINED) for row in table)
    site = sites.module("layers.0.attention.query")
    assert options_at(site, PeftSite)["x"] == {"method": "VERA", "options": {"r": 16}, "kind": "linear"}


def test_one_adapter_has_one_tuner(load):
    rules = [
        PeftRule(sites="attention", method="LOHA", options={"r": 4}),
        PeftRule(sites="ffn", method="LOHA", options={"r": 2}),
    ]
    network = Network(Holder(load("stories260k")), {})
    sites = SiteMap(network, describe(network))
    made = plan(sites.view, rules, tasks=(), stage_lr=None, adapter="x")
    with pytest.raises(StrategyError, match="must have one tuner with one set of options"):
        apply(sites, made, describe=describe, seed=0)


def test_each_task_may_have_one_of_its_own(load):
    network = Network(Holder(load("stories260k")), {})
    sites = SiteMap(network, describe(network))
    rule = PeftRule(method="OFT", options={"oft_block_size": 8}, sites="attention.query", per_task=True)
    made = plan(sites.view, [rule], tasks=("a", "b"), stage_lr=None, adapter="x")
    sites, table = apply(sites, made, describe=describe, seed=0)
    assert {row.owner for row in table.trained()} == {"adapter:x-a", "adapter:x-b"}
    assert [state.tasks for state in extract(sites, table)] == [("a",), ("b",)]


class TestFolder:
    @pytest.fixture
    def folder(self, load, tmp_path):
        sites, table = adapted(load("stories260k"), rule_of("SHIRA"))
        move(sites, table)
        self.sites = {site.raw: site for site in sites.view.sites}
        return write(tmp_path, sites, extract(sites, table)[0])

    def test_what_a_config_draws_is_not_written(self, folder):
        keys = load_file(folder / "adapter_model.safetensors")
        assert {key.rpartition(".")[2] for key in keys} == {"shira_weight"}
        assert json.loads((folder / "adapter_config.json").read_text())["random_seed"] == 0

    def test_a_mask_that_the_config_does_not_draw_is_refused(self, folder):
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        key = next(iter(tensors))
        odd = torch.zeros(2, len(tensors[key]), dtype=torch.int32)
        save_file({**tensors, key.replace("shira_weight", "shira_indices"): odd}, path)
        with pytest.raises(StrategyError, match="must be what the adapter's config draws"):
            peft_folder.read(folder, sites=self.sites)

    def test_what_peft_saved_itself_is_read(self, folder, load, tmp_path):
        theirs = PeftModel.from_pretrained(load("stories260k"), str(folder))
        theirs.save_pretrained(tmp_path / "again")
        (tmp_path / "again").rename(tmp_path / "y")
        read = peft_folder.read(tmp_path / "y", sites=self.sites)
        first = peft_folder.read(folder, sites=self.sites)
        assert read.config == first.config
        assert [tensor.sum() for tensor in read.tensors.values()] == [
            tensor.sum() for tensor in first.tensors.values()
        ]

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"modules_to_save": ["lm_head"]}, "modules_to_save: must be empty"),
            ({"rank_pattern": {"x": 3}}, "rank_pattern: must be empty"),
            ({"r": "many"}, "must be like its default 32"),
            ({"r": 10**9}, "must be at most 65536"),
            ({"peft_type": "LORA"}, "must be a tuner of the installed peft"),
            ({"mask_type": "__import__"}, "SHIRA"),
        ],
    )
    def test_configs_are_checked(self, folder, change, why):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(StrategyError, match=why):
            peft_folder.read(folder, sites=self.sites)

    def test_other_tensors_are_refused(self, folder):
        path = folder / "adapter_model.safetensors"
        save_file({**load_file(path), "base_model.model.nowhere.shira_weight": torch.zeros(3)}, path)
        with pytest.raises(StrategyError, match=r"nowhere\.shira_weight must be what"):
            peft_folder.read(folder, sites=self.sites)

    def test_numbers_must_be_finite(self, folder):
        path = folder / "adapter_model.safetensors"
        save_file({key: tensor * float("nan") for key, tensor in load_file(path).items()}, path)
        with pytest.raises(StrategyError, match="must hold finite numbers"):
            peft_folder.read(folder, sites=self.sites)


def test_peft_is_loaded_only_when_it_is_asked_for():
    code = "import sys, weft.strategy.registry, weft.export.parts; print('peft' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "False"
