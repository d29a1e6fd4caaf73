"""Prompts and prefixes beside PEFT: states, gradients and text are the same, and folders go both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from weft.core.batch import Batch
from weft.core.decoding import Decoding
from weft.core.layout import Layout
from weft.core.network import Network
from weft.core.sites import SiteMap
from weft.errors import StrategyError
from weft.model.describe import describe
from weft.model.folder import locate
from weft.model.trunk import load_trunk
from weft.strategy import peft_positions
from weft.strategy.adapters import extract, restore
from weft.strategy.prefix import PrefixRule, sides_of
from weft.strategy.prompt import PromptRule
from weft.strategy.registry import adapter_method
from weft.strategy.selector import select_sites

TOLERANCE, TOKENS, HIDDEN = 1e-5, 4, 6
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing"),  # PEFT asks under an old name
    pytest.mark.filterwarnings("ignore:Position ids are not supported"),  # and counts them itself
]
RULES = {
    "prompt": PromptRule(tokens=TOKENS),
    "prefix": PrefixRule(tokens=TOKENS),
    "prefix, projected": PrefixRule(tokens=TOKENS, projection=HIDDEN),
}
MODELS = ("minilm", "stories260k")


@pytest.fixture(scope="module")
def path_of(stories260k: Path):
    return lambda name: locate("minilm", None, root=Path.cwd()).path if name == "minilm" else stories260k


def trunk_of(path, *, lm=False):
    folder = locate(str(path), None, root=Path.cwd())
    network = Network(load_trunk(folder, wants_lm_head=lm, dropout=0.0, device=torch.device("cpu")), {})
    network.requires_grad_(requires_grad=False)
    return network, SiteMap(network, describe(network))


def theirs_of(path, name, *, auto=AutoModel, task_type="FEATURE_EXTRACTION"):
    model = auto.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    common = {"num_virtual_tokens": TOKENS, "task_type": task_type}
    projected = {"prefix_projection": True, "encoder_hidden_size": HIDDEN}
    config = (
        PromptTuningConfig(**common)
        if name == "prompt"
        else PrefixTuningConfig(**common, **(projected if "projected" in name else {}))
    )
    torch.manual_seed(0)
    wrapped = get_peft_model(model, config).eval()
    if name == "prompt":  # PEFT draws numbers far larger than embeddings are
        wrapped.prompt_encoder["default"].embedding.weight.data.mul_(0.1)
    return wrapped


def tensors_at(sites, path, encoder, place, num_places):
    """Return PEFT's parameters by the names of our tables at one site: views, whose gradients are PEFT's parts."""
    if path == sites.view.words:
        return {"prompt": (encoder.embedding.weight, None)}
    found = {}
    for side in sides_of(path):
        at = 2 * place + (side == "value")
        if not hasattr(encoder, "transform"):
            width = encoder.embedding.weight.shape[1] // num_places
            found[f"prefix_{side}"] = (encoder.embedding.weight, (1, slice(at * width, (at + 1) * width)))
            continue
        width = encoder.embedding.weight.shape[1]
        rows = (0, slice(at * width, (at + 1) * width))
        found |= {
            f"prefix_{side}": (encoder.embedding.weight, None),
            f"prefix_{side}_hidden": (encoder.transform[0].weight, None),
            f"prefix_{side}_hidden_bias": (encoder.transform[0].bias, None),
            f"prefix_{side}_out": (encoder.transform[2].weight, rows),
            f"prefix_{side}_out_bias": (encoder.transform[2].bias, rows),
        }
    return found


def part(tensor, cut):
    return tensor if cut is None else tensor.narrow(cut[0], cut[1].start, cut[1].stop - cut[1].start)


def put(sites, rule, encoder):
    """Install ``rule`` with PEFT's values; return our parameters with the part of PEFT's that each is equal to."""
    method = adapter_method(rule.train)
    chosen = [sites.view.words] if rule.train == "prompt" else select_sites(sites.view, rule.sites)
    num_places = 2 * sites.view.num_layers[""]
    pairs = []
    for path in chosen:
        method.install(sites, sites.site(path), rule, adapter="x", seed=0)
        place = 0 if rule.train == "prompt" else int(path.split(".")[1])
        for table, (whole, cut) in tensors_at(sites, path, encoder, place, num_places).items():
            ours = getattr(sites.module(path), table)["x"]
            ours.data.copy_(part(whole, cut).detach())
            pairs.append((ours.requires_grad_(), whole, cut))
    return pairs


@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.parametrize("name", RULES)
def test_states_and_gradients_are_those_of_peft(path_of, name, model_name):
    path = path_of(model_name)
    wrapped, (network, sites) = theirs_of(path, name), trunk_of(path)
    pairs = put(sites, RULES[name], wrapped.prompt_encoder["default"])
    generator = torch.Generator().manual_seed(3)
    tokens_BL = torch.randint(5, 80, (3, 9), generator=generator)
    expected = wrapped(input_ids=tokens_BL).last_hidden_state[:, -9:]
    batch = Batch(tokens_BL.flatten(), None, Layout.packed([9] * 3), {}, ("a", "b", "c"))
    found = network.trunk(batch).flat_TD().view_as(expected)
    assert (found - expected).norm() <= TOLERANCE * expected.norm()
    weights = torch.randn(found.shape, generator=generator)
    for out in (found, expected):
        (out * weights).sum().backward()
    # What PEFT shares between layers gets the sum of their gradients.
    by_whole = {}
    for ours, whole, cut in pairs:
        sums = by_whole.setdefault(id(whole), (whole, torch.zeros_like(whole)))[1]
        part(sums, cut).add_(ours.grad)
    for whole, sums in by_whole.values():
        assert whole.grad.norm() > 0
        assert (sums - whole.grad).norm() <= TOLERANCE * whole.grad.norm()


@pytest.mark.parametrize("name", RULES)
def test_generated_text_is_that_of_peft(stories260k, name):
    wrapped = theirs_of(stories260k, name, auto=AutoModelForCausalLM, task_type="CAUSAL_LM")
    network, sites = trunk_of(stories260k, lm=True)
    put(sites, RULES[name], wrapped.prompt_encoder["default"])
    prompts = [[1, 50, 60, 70, 80], [1, 90, 33], [1]]
    ours = network.trunk.generate(prompts, Decoding(max_new_tokens=10, stop_tokens=(2,)))
    for prompt, answer in zip(prompts, ours, strict=True):
        words = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": 2, "pad_token_id": 0}
        theirs = wrapped.generate(
            input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), **words
        )
        assert theirs[0, len(prompt) :].tolist()[: len(answer)] == answer
        assert len(answer) > 3


@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.parametrize("name", RULES)
def test_folders_go_both_ways(path_of, tmp_path, name, model_name):
    path = path_of(model_name)
    wrapped, (network, sites) = theirs_of(path, name), trunk_of(path)
    put(sites, RULES[name], wrapped.prompt_encoder["default"])
    tokens_BL = torch.randint(5, 80, (2, 7), generator=torch.Generator().manual_seed(3))
    batch = Batch(tokens_BL.flatten(), None, Layout.packed([7] * 2), {}, ("a", "b"))
    with torch.no_grad():
        expected = network.trunk(batch).flat_TD().view(2, 7, -1)
    sites = SiteMap(network, describe(network))
    (state,) = extract(sites, ["x"])

    ours, theirs = tmp_path / "x", tmp_path / "theirs"
    bare, bare_sites = trunk_of(path)
    peft_positions.write(
        ours, state, sites=bare_sites.view.sites, base=str(path), task_type="FEATURE_EXTRACTION"
    )
    loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(path, dtype=torch.float32).eval(), str(ours))
    with torch.no_grad():
        found = loaded(input_ids=tokens_BL).last_hidden_state[:, -7:]
    assert (found - expected).norm() <= TOLERANCE * expected.norm()

    wrapped.save_pretrained(theirs)
    assert (
        torch.equal(
            load_file(theirs / "adapter_model.safetensors")["prompt_embeddings"],
            load_file(ours / "adapter_model.safetensors")["prompt_embeddings"],
        )
        or "projected" in name
    )
    assert peft_positions.is_here(ours)
    read = peft_positions.read(theirs, sites=bare_sites.view.sites, words=bare_sites.view.words)
    restore(bare_sites, read)
    with torch.no_grad():
        found = bare.trunk(batch).flat_TD().view(2, 7, -1)
    assert (found - expected).norm() <= TOLERANCE * expected.norm()
    if "projected" not in name:
        again = peft_positions.read(ours, sites=trunk_of(path)[1].view.sites, words=sites.view.words)
        assert (again.name, again.method, again.config) == (state.name, state.method, state.config)
        assert all(torch.equal(again.tensors[key], tensor) for key, tensor in state.tensors.items())


@pytest.fixture(scope="module")
def llama(stories260k: Path):
    return trunk_of(stories260k)[1].view


def state_of(stories260k, rule):
    network, sites = trunk_of(stories260k)
    method = adapter_method(rule.train)
    for path in select_sites(sites.view, rule.sites):
        method.install(sites, sites.site(path), rule, adapter="x", seed=0)
    return extract(SiteMap(network, describe(network)), ["x"])[0]


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (PrefixRule(tokens=2, gate=True), "it has gates"),
        (PrefixRule(tokens=2, sites="layers[0].attention"), "it is not in all layers"),
    ],
)
def test_what_peft_cannot_say_is_said(stories260k, llama, tmp_path, rule, why):
    state = state_of(
        stories260k, PrefixRule(tokens=2, gate=rule.gate, sites="kv" if rule.gate else "layers[0].kv")
    )
    assert peft_positions.obstacle(state, llama.sites) == why
    with pytest.raises(StrategyError, match=f"must be what PEFT's folder can say, but {why}"):
        peft_positions.write(tmp_path / "x", state, sites=llama.sites, base="b", task_type="CAUSAL_LM")
    assert not (tmp_path / "x").exists()


def damaged(tmp_path, stories260k, llama, *, config=None, tensors=None):
    folder = tmp_path / "x"
    state = state_of(stories260k, PrefixRule(tokens=2))
    peft_positions.write(folder, state, sites=llama.sites, base="b", task_type="CAUSAL_LM")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    if tensors is not None:
        save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("config", "tensors", "said"),
    [
        ({"num_virtual_tokens": 3}, None, "must hold prompt_embeddings of 3 positions"),
        ({"num_transformer_submodules": 2}, None, "a model of one stack"),
        ({}, {}, "but holds nothing"),
        (
            {},
            {"prompt_embeddings": torch.zeros(2, 7)},
            "must have one width for keys and values of each of 5 layers",
        ),
        ({}, {"prompt_embeddings": torch.full((2, 320), torch.nan)}, "finite floating-point numbers"),
        ({}, {"prompt_embeddings": torch.zeros(2, 8), "more": torch.zeros(1)}, "and nothing else"),
    ],
)
def test_what_does_not_fit_is_refused(stories260k, llama, tmp_path, config, tensors, said):
    folder = damaged(tmp_path, stories260k, llama, config=config, tensors=tensors)
    with pytest.raises(StrategyError, match=said):
        peft_positions.read(folder, sites=llama.sites, words=llama.words)


def test_another_folder_is_not_one_of_these(tmp_path):
    assert not peft_positions.is_here(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert not peft_positions.is_here(tmp_path)
