"""What we write, PEFT loads; what PEFT writes, we read; what is neither is refused by name."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
)

from weft.core.parts import AdapterState
from weft.core.sites import SiteMap
from weft.errors import NameInvalidError, StrategyError
from weft.strategy.adapters import extract, restore
from weft.strategy.apply import apply
from weft.strategy.dora import DoraRule
from weft.strategy.ia3 import Ia3Rule
from weft.strategy.lora import LoraRule
from weft.strategy.peft_files import CONFIG_FILE, TENSOR_FILE
from weft.strategy.peft_layout import read, write
from weft.strategy.plan import plan

TOLERANCE = 5e-6  # fp32; the kernels take sums in another order than torch

# PEFT asks transformers for an attribute under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def seeded(make, config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(config).eval()


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=20, num_labels=3, initializer_range=0.3,
    )  # fmt: skip
    seeded(BertForSequenceClassification, config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def llama_folder(tmp_path: Path) -> Path:
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=24, max_position_embeddings=20, initializer_range=0.3,
    )  # fmt: skip
    seeded(LlamaForCausalLM, config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def gpt2_folder(tmp_path: Path) -> Path:
    config = GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=20, initializer_range=0.3,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    seeded(GPT2Model, config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


TOKENS = torch.arange(2 * 9).reshape(2, 9) % 40


def output(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS)[0]


def adapted(real, model, describe, rules, name="mine"):
    """Return the map of a network around ``model`` with an adapter whose B is not zero."""
    network = real.network(model)
    sites = SiteMap(network, describe(network))
    made = plan(sites.view, rules, tasks=(), stage_lr=None, adapter=name)
    sites, _ = apply(sites, made, describe=describe, seed=0)
    generator = torch.Generator().manual_seed(1)
    for path, parameter in sites.parameters():
        if re.search("lora_B|dora_B|embedding_A", path):
            parameter.data.normal_(std=0.3, generator=generator)
        elif re.search("magnitude|ia3", path):
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return sites


def raw_of(sites):
    return {site.path: site.raw for site in sites.view.sites if not site.path.startswith("heads.")}


def canonical_of(sites):
    return {raw: path for path, raw in raw_of(sites).items()}


MIXED = (
    LoraRule(rank=4, alpha=6.5),
    LoraRule(sites="layers[0].attention", rank=2, alpha=3),
    LoraRule(sites="layers[1].ffn", rank=6, dropout=0.1),
)

WRITTEN = {
    "one rule": (LoraRule(),),
    "mixed ranks": MIXED,
    "rank-stable": (LoraRule(rank=4, rslora=True),),
    "partly rank-stable": (LoraRule(rank=4), LoraRule(sites="layers[1].ffn", rank=6, rslora=True)),
    "embedding": (LoraRule(rank=4), LoraRule(sites="re:word_emb|wte|embed_tok", rank=2)),
    "dora": (DoraRule(rank=4),),
    "ia3": (Ia3Rule(sites="layers"),),
}


@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out.*")
@pytest.mark.parametrize("rules", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("architecture", ["bert", "llama", "gpt2"])
def test_peft_loads_what_we_write(architecture, rules, real, request, tmp_path):
    folder = request.getfixturevalue(f"{architecture}_folder")
    load = AutoModelForCausalLM if architecture == "llama" else AutoModel
    sites = adapted(real, load.from_pretrained(folder).eval(), getattr(real, architecture), rules)
    (state,) = extract(sites, ["mine"])
    write(tmp_path / "mine", state, raw=raw_of(sites), base=str(folder), task_type=None)
    peft = PeftModel.from_pretrained(load.from_pretrained(folder), tmp_path / "mine").eval()
    ours, theirs, plain = (
        output(m) for m in (sites.network.trunk.model, peft, load.from_pretrained(folder).eval())
    )
    assert (ours - theirs).abs().max() <= TOLERANCE * max(1.0, ours.abs().max().item())
    assert (ours - plain).abs().max() > 0.01
    num_lora = sum(p.numel() for name, p in peft.named_parameters() if re.search("lora_|ia3_", name))
    assert num_lora == sum(t.numel() for t in state.tensors.values())


@pytest.mark.parametrize("rules", [name for name in WRITTEN if "partly" not in name])
@pytest.mark.parametrize("architecture", ["bert", "llama", "gpt2"])
def test_we_read_what_we_write(architecture, rules, real, request, tmp_path):
    folder = request.getfixturevalue(f"{architecture}_folder")
    load = AutoModelForCausalLM if architecture == "llama" else AutoModel
    sites = adapted(real, load.from_pretrained(folder).eval(), getattr(real, architecture), WRITTEN[rules])
    (state,) = extract(sites, ["mine"])
    write(tmp_path / "mine", state, raw=raw_of(sites), base="x", task_type=None, prefix="base.")
    again = read(
        tmp_path / "mine", canonical={f"base.{raw}": path for raw, path in canonical_of(sites).items()}
    )
    assert (again.name, again.method) == ("mine", state.method)
    assert again.tensors.keys() == state.tensors.keys()
    assert all(torch.equal(again.tensors[path], state.tensors[path]) for path in state.tensors)
    assert again.config == state.config  # PEFT's config has one dropout for all, and ours differ
    if rules == "mixed ranks":
        assert sorted({one["dropout"] for one in again.config["sites"].values()}) == [0.0, 0.1]
    fresh = SiteMap(real.network(load.from_pretrained(folder).eval()), sites.view)
    fresh = SiteMap(fresh.network, getattr(real, architecture)(fresh.network))
    restore(fresh, again)
    assert torch.equal(output(fresh.network.trunk.model), output(sites.network.trunk.model))


@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out.*")
@pytest.mark.parametrize(
    ("architecture", "targets"),
    [("bert", ["query", "output.dense"]), ("llama", "all-linear"), ("gpt2", ["c_attn", "c_fc"])],
)
def test_we_read_what_peft_writes(architecture, targets, real, request, tmp_path):
    folder = request.getfixturevalue(f"{architecture}_folder")
    load = AutoModelForCausalLM if architecture == "llama" else AutoModel
    patterns = {
        "bert": "layer.1.attention.self.query",
        "llama": r"layers\.1\.mlp\.up_proj",
        "gpt2": "h.1.mlp.c_fc",
    }
    config = LoraConfig(
        r=3, lora_alpha=5, target_modules=targets, rank_pattern={patterns[architecture]: 6},
        alpha_pattern={patterns[architecture]: 1}, init_lora_weights=False, fan_in_fan_out=architecture == "gpt2",
    )  # fmt: skip
    torch.manual_seed(0)
    peft = get_peft_model(load.from_pretrained(folder), config).eval()
    peft.save_pretrained(tmp_path / "theirs")
    network = real.network(load.from_pretrained(folder).eval())
    sites = SiteMap(network, getattr(real, architecture)(network))
    state = read(tmp_path / "theirs", canonical=canonical_of(sites))
    assert sorted({one["rank"] for one in state.config["sites"].values()}) == [3, 6]
    before = output(network.trunk.model)
    restore(sites, state)
    after = output(network.trunk.model)
    assert (after - output(peft)).abs().max() <= TOLERANCE * max(1.0, after.abs().max().item())
    assert (after - before).abs().max() > 0.01


def test_a_classifier_travels_along(bert_folder, real, tmp_path):
    model = BertForSequenceClassification.from_pretrained(bert_folder).eval()
    sites = adapted(real, model.bert, real.bert, [LoraRule(sites="layers")])
    model.classifier.weight.data.normal_()
    model.bert.pooler.dense.bias.data.normal_()
    (state,) = extract(sites, ["mine"])
    whole = {
        "classifier.weight": model.classifier.weight,
        "classifier.bias": model.classifier.bias,
        "bert.pooler.dense.weight": model.bert.pooler.dense.weight,
        "bert.pooler.dense.bias": model.bert.pooler.dense.bias,
    }
    write(
        tmp_path / "mine", state, raw=raw_of(sites), base=str(bert_folder), task_type="SEQ_CLS", prefix="bert.",
        modules_to_save=whole,
    )  # fmt: skip
    config = json.loads((tmp_path / "mine" / CONFIG_FILE).read_text())
    assert config["modules_to_save"] == ["classifier", "bert.pooler"]
    assert (config["task_type"], config["base_model_name_or_path"]) == ("SEQ_CLS", str(bert_folder))
    peft = PeftModel.from_pretrained(
        BertForSequenceClassification.from_pretrained(bert_folder), tmp_path / "mine"
    )
    ours = output(model)
    assert (ours - output(peft.eval())).abs().max() <= TOLERANCE * max(1.0, ours.abs().max().item())
    with pytest.raises(StrategyError, match="modules_to_save is"):
        read(tmp_path / "mine", canonical={f"bert.{raw}": path for raw, path in canonical_of(sites).items()})


def made_by_hand(**sites):
    """Return a state at the sites given by name and rank, width 4."""
    options = {s: {"rank": r, "alpha": 2.0 * r, "dropout": 0.0, "kind": "linear"} for s, r in sites.items()}
    tensors = {}
    for site, rank in sites.items():
        tensors[f"{site}.lora_A.mine"], tensors[f"{site}.lora_B.mine"] = (
            torch.randn(rank, 4),
            torch.randn(4, rank),
        )
    return AdapterState("mine", "lora", {"sites": options}, tensors)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(4, 4)
        self.deep = nn.ModuleDict({"gate": nn.Linear(4, 4), "agate": nn.Linear(4, 4)})

    def forward(self, x):
        return self.gate(x) + 2 * self.deep["gate"](x) + 3 * self.deep["agate"](x)


def test_names_that_end_alike_are_told_apart(tmp_path):
    state = made_by_hand(gate=2)
    raw = {"gate": "gate", "deep.gate": "deep.gate", "deep.agate": "deep.agate"}
    write(tmp_path / "mine", state, raw=raw, base="x", task_type=None)
    assert json.loads((tmp_path / "mine" / CONFIG_FILE).read_text())["target_modules"] == "gate"
    peft = PeftModel.from_pretrained(Nested(), tmp_path / "mine")
    assert sorted(name for name, _ in peft.named_parameters() if "lora_A" in name) == [
        "base_model.model.gate.lora_A.default.weight"
    ]


def test_the_files_say_what_peft_expects(tmp_path):
    state = made_by_hand(**{"a": 2, "b": 2, "c": 5})
    write(
        tmp_path / "mine", state, raw={"a": "x.a", "b": "x.b", "c": "x.c"}, base="org/model", task_type=None
    )
    config = json.loads((tmp_path / "mine" / CONFIG_FILE).read_text())
    assert config["peft_type"] == "LORA"
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (2, 4, 0.0)
    assert config["target_modules"] == ["x.a", "x.b", "x.c"]
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({r"^x\.c": 5}, {r"^x\.c": 10})
    assert (config["bias"], config["inference_mode"], config["modules_to_save"]) == ("none", True, None)
    LoraConfig.from_pretrained(str(tmp_path / "mine"))  # a key that PEFT does not know would warn
    keys = set(load_file(tmp_path / "mine" / TENSOR_FILE))
    assert keys == {f"base_model.model.x.{s}.lora_{f}.weight" for s in "abc" for f in "AB"}
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [CONFIG_FILE, TENSOR_FILE]


@pytest.mark.parametrize(
    ("change", "raw", "error", "said"),
    [
        ({"name": "../mine"}, {"a": "a"}, NameInvalidError, "must be 1-64"),
        ({"method": "adapter"}, {"a": "a"}, StrategyError, "must be dora or ia3 or lora"),
        ({}, {}, StrategyError, "a: must have a module name"),
    ],
)
def test_what_cannot_be_written_is_refused(change, raw, error, said, tmp_path):
    with pytest.raises(error, match=said):
        write(tmp_path / "mine", replace(made_by_hand(a=2), **change), raw=raw, base="x", task_type=None)
    assert not (tmp_path / "mine").exists()


def test_a_whole_module_must_not_hold_an_adapter(tmp_path):
    with pytest.raises(StrategyError, match=r"x\.a\.bias: must lie in a module without adapters"):
        write(
            tmp_path / "mine", made_by_hand(a=2), raw={"a": "x.a"}, base="x", task_type=None,
            modules_to_save={"x.a.bias": torch.zeros(4)},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "VERA"}, "peft_type must be LORA or IA3, but is 'VERA'"),
        ({"peft_type": None}, "peft_type must be LORA or IA3"),
        ({"use_qalora": True}, "use_qalora is True"),
        ({"bias": "all"}, "bias must be 'none'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights must leave the base weights alone"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is"),
        ({"something_new": {"a": 1}}, "something_new is"),
        ({"r": 3}, "must have the rank 3 of its config, but has lora_A (2, 4)"),
        ({"r": 0}, "the rank r must be a positive whole number"),
        ({"r": "2"}, "the rank r must be a positive whole number"),
        ({"lora_alpha": None}, "the alpha lora_alpha must be a finite number"),
        ({"alpha_pattern": {"a": "x"}}, "the alpha a must be a finite number"),
        ({"rank_pattern": {"(": 2}}, "must hold regular expressions"),
        ({"rank_pattern": [2]}, "rank_pattern must be a mapping"),
        ({"lora_dropout": 1.0}, "lora_dropout must be"),
    ],
)
def test_a_config_that_is_no_plain_lora_is_refused(change, said, tmp_path):
    write(tmp_path / "mine", made_by_hand(a=2), raw={"a": "x.a"}, base="x", task_type=None)
    path = tmp_path / "mine" / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StrategyError, match=re.escape(said)):
        read(tmp_path / "mine", canonical={"x.a": "a"})


KEY = "base_model.model.x.a.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: {**t, "base_model.model.y.lora_A.weight": t[KEY]},
            "'base_model.model.y.lora_A.weight' is not",
        ),
        (lambda t: {**t, "base_model.model.../x.lora_A.weight": t[KEY]}, "../x.lora_A.weight' is not"),
        (lambda t: {**t, "base_model.model.x.a.weight": t[KEY]}, "'base_model.model.x.a.weight' is not"),
        (lambda t: {KEY: t[KEY]}, "x.a must have lora_A.weight, lora_B.weight, but lora_B.weight is missing"),
        (lambda t: {**t, KEY: t[KEY][:1]}, "must have the rank 2"),
        (lambda t: {**t, KEY: t[KEY].flatten()}, "must have the rank 2"),
        (lambda t: {**t, KEY: t[KEY].long()}, "finite floating-point"),
        (lambda t: {**t, KEY: t[KEY] * float("nan")}, "finite floating-point"),
        (lambda t: {}, "must hold at least one adapted module"),
    ],
)
def test_tensors_that_fit_nothing_are_refused(change, said, tmp_path):
    write(tmp_path / "mine", made_by_hand(a=2), raw={"a": "x.a"}, base="x", task_type=None)
    path = tmp_path / "mine" / TENSOR_FILE
    save_file(
        {key: t.clone(memory_format=torch.contiguous_format) for key, t in change(load_file(path)).items()},
        path,
    )
    with pytest.raises(StrategyError, match=re.escape(said)):
        read(tmp_path / "mine", canonical={"x.a": "a"})


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_broken_config_is_refused(content, tmp_path):
    write(tmp_path / "mine", made_by_hand(a=2), raw={"a": "x.a"}, base="x", task_type=None)
    (tmp_path / "mine" / CONFIG_FILE).write_bytes(content)
    with pytest.raises(StrategyError, match=re.escape(CONFIG_FILE)):
        read(tmp_path / "mine", canonical={"x.a": "a"})


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\xff" * 16, None])
def test_broken_tensors_are_refused(content, tmp_path):
    write(tmp_path / "mine", made_by_hand(a=2), raw={"a": "x.a"}, base="x", task_type=None)
    path = tmp_path / "mine" / TENSOR_FILE
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(StrategyError, match="must be a safetensors file"):
        read(tmp_path / "mine", canonical={"x.a": "a"})


def test_a_folder_name_becomes_a_name(tmp_path):
    write(tmp_path / "my.adapter", made_by_hand(a=2), raw={"a": "x.a"}, base="x", task_type=None)
    with pytest.raises(NameInvalidError):
        read(tmp_path / "my.adapter", canonical={"x.a": "a"})


def test_half_precision_is_read_as_single(tmp_path):
    state = made_by_hand(a=2)
    write(tmp_path / "mine", state, raw={"a": "x.a"}, base="x", task_type=None)
    path = tmp_path / "mine" / TENSOR_FILE
    save_file({key: tensor.half() for key, tensor in load_file(path).items()}, path)
    again = read(tmp_path / "mine", canonical={"x.a": "a"})
    assert all(tensor.dtype is torch.float32 for tensor in again.tensors.values())
    assert torch.allclose(again.tensors["a.lora_A.mine"], state.tensors["a.lora_A.mine"], atol=1e-2)


def test_sites_that_differ_are_noted_where_peft_does_not_look(tmp_path):
    state = made_by_hand(a=2, b=2)
    state.config["sites"]["a"] |= {"kind": "conv1d", "dropout": 0.25}
    write(tmp_path / "mine", state, raw={"a": "x.a", "b": "x.b"}, base="x", task_type=None)
    config = json.loads((tmp_path / "mine" / CONFIG_FILE).read_text())
    assert (config["lora_dropout"], config["fan_in_fan_out"]) == (0.25, True)
    again = read(tmp_path / "mine", canonical={"x.a": "a", "x.b": "b"})
    assert again.config == state.config


@pytest.mark.parametrize(
    "notes",
    ["[1]", "{", '{"x.a": 1}', '{"x.a": {"rank": 1}}', '{"x.a": {"kind": "?"}}', '{"x.a": {"dropout": 2}}'],
)
def test_notes_that_make_no_sense_are_refused(notes, tmp_path):
    write(tmp_path / "mine", made_by_hand(a=2), raw={"a": "x.a"}, base="x", task_type=None)
    path = tmp_path / "mine" / TENSOR_FILE
    save_file(load_file(path), path, metadata={"format": "pt", "weft": notes})
    with pytest.raises(StrategyError, match="its notes must be dropout and kind"):
        read(tmp_path / "mine", canonical={"x.a": "a"})
