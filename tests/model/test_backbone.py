"""Features equal those of plain transformers, whatever the padding or packing; greedy decoding equals argmax."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from weft.core.batch import Batch
from weft.core.decoding import Decoding
from weft.core.features import Pooling
from weft.core.layout import Layout
from weft.core.network import Network, TrunkInfo
from weft.errors import ModelError
from weft.model.backbone import HFTrunk, evaluating, even, to_grid
from weft.model.folder import inspect, locate
from weft.model.generate import continued
from weft.model.trunk import load_trunk

CPU = torch.device("cpu")
KINDS = ["bert", "roberta", "electra", "distilbert", "modernbert", "mpnet", "llama", "qwen3", "gpt2"]
DECODERS = KINDS[-3:]
LENGTHS = (5, 1, 9, 3)


def load(folder, *, lm=False, dropout=0.0):
    return load_trunk(folder, wants_lm_head=lm, dropout=dropout, device=CPU)


def rows(lengths=LENGTHS, *, vocabulary=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocabulary, (n,), generator=generator) for n in lengths]


def stock_model(folder, auto=transformers.AutoModel):
    """Return transformers' own model with its weights in aligned memory: bits depend on where operands lie."""
    stock = auto.from_pretrained(folder.path, attn_implementation="eager").eval()
    for parameter in stock.parameters():
        parameter.data = parameter.data.clone()
    return stock


def padded(rows, *, width=None, pad=0, segments=None):
    layout = Layout.padded([len(row) for row in rows], width)
    tokens = torch.full((len(rows), layout.width), pad)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
    return Batch(tokens, segments, layout, {}, tuple(map(str, range(len(rows)))))


def packed(rows, *, segments=None):
    layout = Layout.packed([len(row) for row in rows])
    return Batch(torch.cat(rows), segments, layout, {}, tuple(map(str, range(len(rows)))))


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_transformers_own(saved, kind):
    folder = saved(kind)
    trunk = load(folder)
    stock = stock_model(folder)
    batch = padded(rows(), pad=stock.config.pad_token_id or 0)
    with torch.no_grad():
        hidden = trunk(batch).hidden
        cache = {"use_cache": False} if kind in DECODERS else {}
        mask = batch.layout.mask_BL().long()
        expected = stock(input_ids=batch.tokens, attention_mask=mask, **cache).last_hidden_state
    real = batch.layout.mask_BL()
    torch.testing.assert_close(hidden[real], expected[real], rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_packing_and_company_change_nothing(saved, kind):
    trunk = load(saved(kind))
    texts = rows()
    with torch.no_grad():
        alone = torch.cat([trunk(padded([row])).flat_TD() for row in texts])
        tight = trunk(padded(texts)).flat_TD()
        wide = trunk(padded(texts, width=30, pad=7)).flat_TD()
        flat = trunk(packed(texts))
    assert flat.layout.is_packed
    assert flat.hidden.shape == (sum(LENGTHS), 16)
    torch.testing.assert_close(tight, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(wide, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(flat.hidden, tight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["roberta", "mpnet"])
def test_a_real_token_that_equals_padding_keeps_its_position(saved, kind):
    """Such models would skip it when they count positions themselves, and shift all that follows."""
    trunk = load(saved(kind))
    pad = int(trunk.model.config.pad_token_id)
    tokens = torch.tensor([5, pad, 6, 7])
    with torch.no_grad():
        hidden = trunk(padded([tokens])).hidden
        positions = torch.arange(4)[None] + pad + 1
        expected = trunk.model(input_ids=tokens[None], position_ids=positions).last_hidden_state
        shifted = trunk.model(input_ids=tokens[None]).last_hidden_state
    assert torch.equal(hidden, expected)
    assert not torch.allclose(hidden[0, 3], shifted[0, 3])


def test_segments_reach_the_trunk_padded_and_packed(saved):
    trunk = load(saved("bert"))
    texts = rows((4, 2))
    segments = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 0]])
    with torch.no_grad():
        plain = trunk(padded(texts)).flat_TD()
        marked = trunk(padded(texts, segments=segments)).flat_TD()
        flat = trunk(packed(texts, segments=torch.tensor([0, 0, 1, 1, 0, 1]))).flat_TD()
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
        tokens = padded(texts).tokens
        expected = trunk.model(
            input_ids=tokens, attention_mask=mask, token_type_ids=segments
        ).last_hidden_state
    assert not torch.allclose(plain, marked)
    torch.testing.assert_close(flat, marked, rtol=0, atol=1e-5)
    assert torch.equal(marked, expected[mask.bool()])


@pytest.mark.parametrize("kind", KINDS)
def test_a_perturbation_is_added_to_the_word_embeddings(saved, kind):
    trunk = load(saved(kind))
    texts = rows()
    batch = padded(texts)
    with torch.no_grad():
        plain = trunk(batch)
        width = trunk.model.get_input_embeddings().embedding_dim  # electra's is less than the trunk's
        zero = trunk(batch, perturb=torch.zeros(4, 9, width))
        noise = 0.1 * torch.randn(sum(LENGTHS), width)
        grid = to_grid(noise, Layout.packed(LENGTHS))
        moved = trunk(batch, perturb=grid)
        flat = trunk(packed(texts), perturb=noise)
    real = batch.layout.mask_BL()
    torch.testing.assert_close(zero.hidden[real], plain.hidden[real], rtol=0, atol=1e-6)
    assert (moved.flat_TD() - plain.flat_TD()).abs().max() > 1e-4
    torch.testing.assert_close(flat.hidden, moved.flat_TD(), rtol=0, atol=1e-6)


def test_a_perturbation_has_a_gradient(saved):
    trunk = load(saved("bert"))
    noise = torch.zeros(4, 9, 16, requires_grad=True)
    trunk(padded(rows()), perturb=noise).flat_TD().sum().backward()
    real = Layout.padded(LENGTHS).mask_BL()
    assert noise.grad[real].abs().max() > 0
    assert noise.grad[~real].abs().max() == 0


def test_the_pooler_is_the_models_own(saved):
    trunk = load(saved("bert"))
    batch = padded(rows())
    with torch.no_grad():
        features = trunk(batch)
        expected = trunk.model(
            input_ids=batch.tokens, attention_mask=batch.layout.mask_BL().long()
        ).pooler_output
        flat = trunk(packed(rows())).pooled_BD(Pooling.POOLER)
    assert torch.equal(features.pooled_BD(Pooling.POOLER), expected)
    torch.testing.assert_close(flat, expected, rtol=0, atol=1e-6)
    assert load(saved("distilbert"))(batch).pooler is None


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_projection_gives_the_causal_models_logits(saved, kind):
    folder = saved(kind, "AutoModelForCausalLM")
    trunk = load(folder, lm=True)
    stock = stock_model(folder, transformers.AutoModelForCausalLM)
    batch = padded(rows())
    with torch.no_grad():
        features = trunk(batch)
        logits = stock(input_ids=batch.tokens, attention_mask=batch.layout.mask_BL().long()).logits
        own = features.project(features.flat_TD())
    torch.testing.assert_close(own, logits[batch.layout.mask_BL()], rtol=0, atol=1e-6)
    assert own.shape == (sum(LENGTHS), trunk.info.vocabulary)
    assert load(folder)(batch).project is None


def test_a_row_beyond_the_positions_is_refused(saved):
    trunk = load(saved("roberta"))
    trunk(padded(rows((38,))))
    with pytest.raises(ModelError, match="at most 38 tokens for this trunk, but one has 39"):
        trunk(padded(rows((39,))))


def test_dropout_acts_while_training_only(saved):
    trunk = load(saved("bert"), dropout=0.5)
    batch = padded(rows())
    with torch.no_grad():
        calm = trunk(batch).hidden
        assert torch.equal(trunk(batch).hidden, calm)
        trunk.train()
        assert not torch.allclose(trunk(batch).hidden, calm)


def test_evaluating_puts_every_part_back():
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout())
    module[1].eval()
    with evaluating(module):
        assert [part.training for part in module.modules()] == [False, False, False]
    assert [part.training for part in module.modules()] == [True, True, False]


# ------------------------------------------------------------------------------------------ generation
STOP = 2


def how(max_new_tokens, stop, **options):
    return Decoding(max_new_tokens=max_new_tokens, stop_tokens=(stop,), **options)


@pytest.fixture(scope="module")
def storyteller(stories260k):
    return load(inspect(stories260k, name="stories260k"), lm=True)


@torch.no_grad()
def argmax_one_by_one(trunk, prompt, *, steps, stop=STOP):
    """Decode without a cache: the whole row anew for every token."""
    tokens, answer = list(prompt), []
    for _ in range(steps):
        features = trunk(padded([torch.tensor(tokens)]))
        token = int(features.project(features.last_BD())[0].argmax())
        if token == stop:
            break
        tokens.append(token)
        answer.append(token)
    return answer


PROMPTS = [[1, 403, 407, 261, 378], [1], [1, 432, 383, 286, 261, 376, 298, 315, 322], [1, 281, 306]]


def test_generation_equals_argmax_without_a_cache(storyteller):
    expected = [argmax_one_by_one(storyteller, prompt, steps=40) for prompt in PROMPTS]
    assert storyteller.generate(PROMPTS, how(40, STOP)) == expected
    assert [storyteller.generate([p], how(40, STOP))[0] for p in PROMPTS] == expected
    assert all(len(answer) == 40 for answer in expected)


def test_generation_ends_at_the_stop_token_row_by_row(storyteller):
    free = storyteller.generate(PROMPTS, how(12, STOP))
    stop = free[0][4]
    answers = storyteller.generate(PROMPTS, how(12, stop))
    assert answers == [row[: row.index(stop)] if stop in row else row for row in free]
    assert len(answers[0]) <= 4
    assert stop not in {token for answer in answers for token in answer}


def test_a_row_never_outgrows_the_positions_nor_cuts_its_neighbours(saved):
    trunk = load(saved("gpt2", "AutoModelForCausalLM"), lm=True)
    prompts = [[5] * 38, [5, 6], [7] * 40, [8] * 41, [9] * 38]
    answers = trunk.generate(prompts, how(6, 59))
    assert [len(answer) for answer in answers] == [2, 6, 0, 0, 2]
    assert answers == [trunk.generate([prompt], how(6, 59))[0] for prompt in prompts]


def test_generation_is_quiet_drops_nothing_and_leaves_the_mode_alone(saved, capfd, caplog):
    trunk = load(saved("gpt2", "AutoModelForCausalLM"), lm=True, dropout=0.5)
    capfd.readouterr()
    calm = trunk.generate([[5, 6], [7]], how(8, 59))
    trunk.train()
    assert trunk.generate([[5, 6], [7]], how(8, 59)) == calm
    assert trunk.training
    assert trunk.model.training
    assert (capfd.readouterr(), caplog.text) == (("", ""), "")


def test_a_folders_sampling_settings_do_not_change_greedy_answers(saved, tmp_path):
    import json
    import shutil

    folder = saved("llama", "AutoModelForCausalLM")
    shutil.copytree(folder.path, tmp_path / "hot")
    hot = {
        "do_sample": True,
        "temperature": 9.0,
        "repetition_penalty": 5.0,
        "suppress_tokens": [5],
        "max_length": 3,
    }
    (tmp_path / "hot" / "generation_config.json").write_text(json.dumps(hot))
    answers = [
        load(one, lm=True).generate([[3, 4]], how(8, 59))
        for one in (folder, inspect(tmp_path / "hot", name="hot"))
    ]
    assert answers[0] == answers[1]
    assert len(answers[0][0]) == 8


def test_generation_says_what_it_needs(storyteller, saved):
    assert storyteller.generate([], how(4, STOP)) == []
    with pytest.raises(ModelError, match="every prompt needs at least one token"):
        storyteller.generate([[1], []], how(4, STOP))
    with pytest.raises(ModelError, match="must be loaded with its output embedding"):
        load(saved("llama")).generate([[1]], how(4, STOP))


@pytest.mark.slow
def test_minilm_equals_automodel_bitwise_and_padding_does_not_matter():
    folder = locate("minilm", None, root=Path())
    trunk = load(folder)
    stock = stock_model(folder)
    batch = padded(rows((7, 20, 2), vocabulary=30_000))
    with torch.no_grad():
        hidden = trunk(batch).hidden
        expected = stock(input_ids=batch.tokens, attention_mask=batch.layout.mask_BL().long())
        wide = trunk(padded(rows((7, 20, 2), vocabulary=30_000), width=64)).flat_TD()
        flat = trunk(packed(rows((7, 20, 2), vocabulary=30_000)))
    assert torch.equal(hidden, expected.last_hidden_state)
    assert torch.equal(trunk(batch).pooled_BD(Pooling.POOLER), expected.pooler_output)
    torch.testing.assert_close(wide, hidden[batch.layout.mask_BL()], rtol=0, atol=1e-5)
    torch.testing.assert_close(flat.hidden, hidden[batch.layout.mask_BL()], rtol=0, atol=1e-5)


@given(st.integers(1, 100_000), st.sampled_from([8, 16]))
def test_even_counts_are_few_an_octave_and_little_more(count: int, steps: int) -> None:
    found = even(count, steps=steps)
    assert count <= found <= max(count * (1 + 1 / steps), count + 7)
    assert found % 8 == 0
    assert even(found, steps=steps) == found
    octave = [even(n, steps=steps) for n in range(1 << (count.bit_length() - 1), 1 << count.bit_length())]
    assert len(set(octave)) <= steps + 1  # the last one opens the next octave


def test_in_bf16_rows_are_computed_at_an_even_width_and_come_back_at_their_own() -> None:
    seen: list[tuple[int, ...]] = []

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = SimpleNamespace(
                model_type="unknown",
                _attn_implementation="eager",
                to_dict=lambda: {"model_type": "unknown"},
            )
            self.words = nn.Embedding(9, 4)

        def get_input_embeddings(self) -> nn.Module:
            return self.words

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
            seen.append(tuple(input_ids.shape))
            assert attention_mask is not None
            assert attention_mask.sum(1).tolist() == [33, 2]
            return SimpleNamespace(last_hidden_state=self.words(input_ids))

    info = TrunkInfo(4, 0, Pooling.CLS, False, True, False, max_positions=35, init_range=0.02)
    trunk = HFTrunk(Backbone(), info)
    tokens_BL = torch.ones(2, 33, dtype=torch.int64)
    batch = Batch(tokens_BL, None, Layout.padded([33, 2]), {}, ("a", "b"))
    with Network(trunk, {}).computing(torch.bfloat16):
        features = trunk(batch)
    trunk(batch)
    assert seen == [(2, 35), (2, 33)], "an even width, within the positions; in fp32 the width as it is"
    assert features.hidden.shape == (2, 33, 4)


def test_answers_are_generated_in_groups_that_bound_the_cache(storyteller, monkeypatch):
    together = storyteller.generate(PROMPTS, how(12, STOP))
    sizes = []

    def noted(model, prompts, how, **others):
        sizes.append((len(prompts), max(map(len, prompts)) + how.max_new_tokens))
        return continued(model, prompts, how, **others)

    monkeypatch.setattr("weft.model.backbone.continued", noted)
    longest = max(map(len, PROMPTS)) + 12
    monkeypatch.setattr("weft.model.backbone._CACHED", 2 * longest)
    assert storyteller.generate(PROMPTS, how(12, STOP)) == together
    assert sum(count for count, _ in sizes) == len(PROMPTS)
    assert all(count * width <= 2 * longest for count, width in sizes)
    assert len(sizes) > 1
