"""Cutting a stock model: below plus above equals the whole, bit for bit, and nothing is computed twice."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from weft.errors import ModelError
from weft.model import attention
from weft.model.cut import cut_at, deepest_cut, evaluating, layers_of, obstacle
from weft.model.names import TABLES, name_table

LENGTHS = (7, 3, 5)
SIZES = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 60,
    "max_position_embeddings": 40,
}
MARKS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = SIZES | MARKS | {"num_hidden_layers": 3, "num_key_value_heads": 1, "head_dim": 8}
ENCODER = SIZES | {"num_hidden_layers": 3}
KINDS: dict[str, dict[str, Any]] = {
    "bert": ENCODER,
    "roberta": ENCODER | {"pad_token_id": 1},
    "xlm-roberta": ENCODER | {"pad_token_id": 1},
    "camembert": ENCODER | {"pad_token_id": 1},
    "electra": ENCODER | {"embedding_size": 8},
    "distilbert": {
        "dim": 16,
        "n_layers": 3,
        "n_heads": 2,
        "hidden_dim": 32,
        "vocab_size": 60,
        "max_position_embeddings": 40,
    },
    "modernbert": ENCODER
    | MARKS
    | {"global_attn_every_n_layers": 2, "local_attention": 4, "num_hidden_layers": 4},
    "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": 60, "n_positions": 40} | MARKS,
    "llama": DECODER,
    "mistral": DECODER | {"sliding_window": 4},
    "qwen2": DECODER | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": DECODER | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
}
TWO_STACKS = {"t5", "mt5", "umt5", "bart", "mbart", "blenderbot", "m2m_100", "marian", "pegasus", "plbart"}
CASES = [
    (kind, packed) for kind in KINDS for packed in (False, True) if not packed or kind in attention.PACKS
]
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
DROPOUTS_GPT2 = ("resid_pdrop", "embd_pdrop", "attn_pdrop")


def make(kind: str, *, packed: bool = False, dropout: float = 0.0, **options: Any) -> Any:
    config = transformers.AutoConfig.for_model(kind, **(KINDS.get(kind, {}) | options))
    for name in (*DROPOUTS, *DROPOUTS_GPT2):
        if hasattr(config, name):
            setattr(config, name, dropout)
    config._attn_implementation = attention.register() if packed else "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.AutoModel.from_config(config)
        for parameter in model.parameters():  # norms and biases that do something
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def rows_of(kind: str, *, packed: bool) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)
    first = 2 if "pad_token_id" in KINDS[kind] and KINDS[kind]["pad_token_id"] == 1 else 0
    if packed:
        ends = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)
        positions = torch.cat([torch.arange(length) for length in LENGTHS])
        inputs: dict[str, Any] = {
            "input_ids": torch.randint(5, 60, (1, sum(LENGTHS)), generator=generator),
            "position_ids": positions[None] + first,
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": max(LENGTHS),
            "max_length_k": max(LENGTHS),
        }
        if kind in ("bert", "electra", "roberta", "xlm-roberta", "camembert"):
            inputs["token_type_ids"] = torch.zeros(1, sum(LENGTHS), dtype=torch.int64)
    else:
        width = max(LENGTHS)
        inputs = {
            "input_ids": torch.randint(5, 60, (len(LENGTHS), width), generator=generator),
            "attention_mask": (torch.arange(width) < torch.tensor(LENGTHS)[:, None]).long(),
        }
        if first:
            inputs["position_ids"] = torch.arange(first, first + width).expand(len(LENGTHS), width)
    if kind in ("gpt2", "llama", "mistral", "qwen2", "qwen3"):
        inputs["use_cache"] = False
    return inputs


class Count(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.by_name[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    @property
    def products(self) -> int:
        return sum(self.by_name[name] for name in ("mm", "addmm", "bmm", "baddbmm"))


def run(model: Any, inputs: dict[str, Any]) -> Tensor:
    return model(**inputs).last_hidden_state


def test_every_table_is_covered() -> None:
    assert set(KINDS) | TWO_STACKS == set(TABLES)
    assert {kind for kind, packed in CASES if packed} == attention.PACKS & set(KINDS)


@pytest.mark.parametrize(("kind", "packed"), CASES)
def test_below_then_above_is_the_whole(kind: str, packed: bool) -> None:
    model, inputs = make(kind, packed=packed).eval(), rows_of(kind, packed=packed)
    num_layers = model.config.num_hidden_layers
    with torch.no_grad():
        whole = run(model, inputs)
        stages = model(**inputs, output_hidden_states=True).hidden_states
        for at in range(num_layers + 2):
            cut = cut_at(model, at)
            states = cut.lower(inputs)
            expected = whole if at > num_layers else stages[at] if at < num_layers else None
            if expected is not None:
                assert torch.equal(states, expected)
            with cut.upper(states):
                assert torch.equal(run(model, inputs), whole), at
        assert torch.equal(run(model, inputs), whole)
    assert whole.std() > 0.1
    assert cut_at(model, num_layers + 1).is_whole
    assert not cut_at(model, num_layers).is_whole


@pytest.mark.parametrize(("kind", "packed"), CASES)
def test_gradients_above_are_those_of_the_whole_model(kind: str, packed: bool) -> None:
    model, inputs = make(kind, packed=packed).train(), rows_of(kind, packed=packed)
    weights = torch.randn(run(model, inputs).shape, generator=torch.Generator().manual_seed(1))

    def gradients(output: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        (output * weights).sum().backward()
        return {
            name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None
        }

    full = gradients(run(model, inputs))
    layers = layers_of(model, name_table(model.config.to_dict()))
    for at in range(len(layers) + 1):
        cut = cut_at(model, at)
        with cut.upper(cut.lower(inputs)):
            output = run(model, inputs)
        if at == len(layers) and not output.requires_grad:
            assert kind in (
                "bert",
                "roberta",
                "xlm-roberta",
                "camembert",
                "electra",
                "distilbert",
            )  # no final norm
            continue
        partial = gradients(output)
        above = {id(value) for layer in layers[at:] for value in layer.parameters()}
        names = {name for name, value in model.named_parameters() if id(value) in above and name in full}
        assert names <= set(partial)
        assert all("norm" in name or "ln_f" in name for name in set(partial) - names)
        assert not any("embed" in name or "wte" in name for name in partial)
        for name, value in partial.items():
            assert torch.equal(value, full[name]), (at, name)


@pytest.mark.parametrize(("kind", "packed"), CASES)
def test_what_lies_below_costs_no_arithmetic(kind: str, packed: bool) -> None:
    model, inputs = make(kind, packed=packed).eval(), rows_of(kind, packed=packed)
    num_layers = model.config.num_hidden_layers
    if hasattr(model, "pooler"):
        model.pooler = None
    above: list[int] = []
    below: list[int] = []
    for at in range(num_layers + 2):
        cut = cut_at(model, at)
        with Count() as count:
            states = cut.lower(inputs)
        below.append(count.products)
        with torch.no_grad(), cut.upper(states), Count() as count:
            run(model, inputs)
        above.append(count.products)
        assert not count.by_name["embedding"]
    angles = above[-1]  # of rotary embeddings, which every pass makes for all its layers
    assert angles <= 2
    assert {low + high - angles for low, high in zip(below, above, strict=True)} == {below[-1]}
    each = {above[at] - above[at + 1] for at in range(num_layers)}
    assert len(each) == 1
    assert each.pop() >= 4
    assert above[num_layers] == angles


@pytest.mark.parametrize("kind", KINDS)
def test_token_ids_are_not_read_above(kind: str) -> None:
    model, inputs = make(kind).eval(), rows_of(kind, packed=False)
    cut = cut_at(model, 2)
    states = cut.lower(inputs)
    with torch.no_grad(), cut.upper(states):
        assert torch.equal(
            run(model, inputs), run(model, inputs | {"input_ids": torch.full_like(inputs["input_ids"], 7)})
        )


def test_a_causal_model_is_cut_in_its_backbone(stories260k: Path) -> None:
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(stories260k, dtype=torch.float32).eval()
    inputs = {"input_ids": torch.arange(1, 30)[None], "use_cache": False}
    with torch.no_grad():
        whole = model(**inputs).logits
        for at in range(len(model.model.layers) + 2):
            cut = cut_at(model.base_model, at)
            with cut.upper(cut.lower(inputs)):
                assert torch.equal(model(**inputs).logits, whole)


def test_half_precision_is_exact_too() -> None:
    model, inputs = make("llama").bfloat16().eval(), rows_of("llama", packed=False)
    cut = cut_at(model, 2)
    states = cut.lower(inputs)
    assert states.dtype == torch.bfloat16
    with torch.no_grad(), cut.upper(states):
        assert torch.equal(run(model, inputs), make("llama").bfloat16().eval()(**inputs).last_hidden_state)


def snapshot(model: nn.Module) -> list[tuple[Any, ...]]:
    return [(name, id(part), part.training, dict(vars(part))) for name, part in sorted(model.named_modules())]


@pytest.mark.parametrize("kind", ["bert", "modernbert", "gpt2"])
def test_the_model_is_left_as_it_was(kind: str) -> None:
    model, inputs = make(kind, dropout=0.5).train(), rows_of(kind, packed=False)
    model.get_submodule(layer_name(kind)).eval()
    before, weights = snapshot(model), copy.deepcopy(model.state_dict())
    cut = cut_at(model, 1)
    states = cut.lower(inputs)
    with cut.upper(states):
        assert snapshot(model) != before
        run(model, inputs)
    assert snapshot(model) == before

    def fails() -> None:
        with cut.upper(states):
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fails()
    with pytest.raises((TypeError, ValueError, AttributeError)):  # whatever the stock model says
        cut.lower({"nonsense": 1})
    assert snapshot(model) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def layer_name(kind: str) -> str:
    return {"bert": "encoder.layer.1", "modernbert": "layers.1", "gpt2": "h.1"}[kind]


def test_a_forward_of_the_instance_comes_back() -> None:
    model, inputs = make("bert").eval(), rows_of("bert", packed=False)
    layer = model.encoder.layer[0]
    original, calls = layer.forward, []

    def own(*args: Any, **rest: Any) -> Any:
        calls.append(1)
        return original(*args, **rest)

    layer.forward = own
    cut = cut_at(model, 2)
    states = cut.lower(inputs)
    with torch.no_grad(), cut.upper(states):
        run(model, inputs)
    assert len(calls) == 1
    assert layer.forward is own


def test_attributes_of_layers_stay() -> None:
    model, inputs = make("modernbert").eval(), rows_of("modernbert", packed=False)
    kinds = [layer.attention_type for layer in model.layers]
    assert len(set(kinds)) == 2
    cut = cut_at(model, 3)
    with cut.upper(cut.lower(inputs)):
        assert [layer.attention_type for layer in model.layers] == kinds


def test_frozen_layers_drop_nothing() -> None:
    model, inputs = make("bert", dropout=0.5).train(), rows_of("bert", packed=False)
    cut = cut_at(model, 2)
    states = cut.lower(inputs)
    assert torch.equal(states, cut.lower(inputs))
    assert not states.requires_grad
    with evaluating(model):
        assert torch.equal(states, model(**inputs, output_hidden_states=True).hidden_states[2])
    with cut.upper(states):
        assert not torch.equal(run(model, inputs), run(model, inputs))  # above, dropout goes on


def test_layers_that_hand_on_tuples_are_refused() -> None:
    model, inputs = make("bert").eval(), rows_of("bert", packed=False)
    last = model.encoder.layer[-1]
    original = last.forward
    last.forward = lambda *args, **rest: (original(*args, **rest),)
    with pytest.raises(ModelError, match="one tensor"):
        cut_at(model, 3).lower(inputs)


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        (
            "albert",
            {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2},
            "not known by name",
        ),
        ("mpnet", SIZES | {"pad_token_id": 1}, "not known by name"),  # layers return tuples
        ("deberta-v2", SIZES, "not known by name"),  # layers return tuples
        ("t5", {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16}, "two stacks"),
        ("bart", {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1}, "two stacks"),
    ],
)
def test_what_cannot_be_cut_says_why(kind: str, options: dict[str, Any], why: str) -> None:
    config = transformers.AutoConfig.for_model(kind, **options)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    assert why in obstacle(model)
    with pytest.raises(ModelError, match=why):
        cut_at(model, 1)


def test_shared_layers_cannot_be_cut() -> None:
    model = make("bert")
    assert obstacle(model) == ""
    model.encoder.layer[1] = model.encoder.layer[0]
    assert "layers of their own" in obstacle(model)


def test_cuts_outside_the_stack_are_refused() -> None:
    for at in (-1, 5):
        with pytest.raises(ModelError, match="between 0 and 4"):
            cut_at(make("bert"), at)
    with pytest.raises(ModelError, match="0 are known"):
        layers_of(make("bert"), name_table({"model_type": "bart"}))


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ([], 7),
        (["heads.x.weight"], 7),
        (["heads.x.weight", "pooler.weight"], 7),
        (["lm_head.weight"], 7),
        (["final_norm.weight", "heads.x.weight"], 6),
        (["layers.5.ffn.up.bias", "final_norm.weight"], 5),
        (["layers.10.ffn.up.lora_A.x", "layers.4.norm.ffn.bias"], 4),
        (["layers.0.attention.query.weight"], 0),
        (["embeddings.word.weight", "layers.5.ffn.up.bias"], None),
        (["prompt.tokens"], None),
        (["layers.first.weight"], None),
    ],
)
def test_deepest_cut(trained: list[str], expected: int | None) -> None:
    assert deepest_cut(trained, num_layers=6) == expected


def test_digest_is_of_what_lies_below() -> None:
    digest = cut_at(make("bert"), 2).digest()
    assert digest == cut_at(make("bert", dropout=0.3), 2).digest()
    assert digest != cut_at(make("bert"), 1).digest()
    assert digest != cut_at(make("bert", layer_norm_eps=1e-5), 2).digest()
    model = make("bert")
    model.encoder.layer[2].output.dense.bias.data[3] += 1
    assert cut_at(model, 2).digest() == digest
    assert cut_at(model, 3).digest() != cut_at(make("bert"), 3).digest()
    model.pooler.dense.bias.data[0] += 1
    for part in (model.encoder.layer[1].output.dense.bias, model.embeddings.word_embeddings.weight):
        changed = copy.deepcopy(part.data)
        part.data.flatten()[0] += 1e-6
        assert cut_at(model, 2).digest() != digest
        part.data.copy_(changed)
    assert cut_at(model, 2).digest() == digest
    llama = make("llama")
    digest = cut_at(llama, 4).digest()
    llama.norm.weight.data[0] += 1
    assert cut_at(llama, 4).digest() != digest
    assert cut_at(llama, 3).digest() == cut_at(make("llama"), 3).digest()
