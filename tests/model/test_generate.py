"""Beams, draws, penalties and stop strings: equal to the stock ``generate`` of one row, whatever its neighbours."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from weft.core.decoding import Decoding, Stops
from weft.model.decoder import reply_start
from weft.model.folder import locate
from weft.model.generate import gumbel_BV
from weft.model.tokenizer import load_tokenizer
from weft.model.trunk import load_trunk

STOP = 2
PROMPTS = [[1, 403, 407, 261, 378], [1], [1, 432, 383, 286, 261, 376, 298, 315, 322], [1, 281, 306]]
GREEDY = Decoding(max_new_tokens=24, stop_tokens=(STOP,))
MASK = 2**64 - 1


@pytest.fixture(scope="module")
def folder(stories260k):
    return locate(str(stories260k), None, root=Path())


@pytest.fixture(scope="module")
def trunk(folder):
    return load_trunk(folder, wants_lm_head=True, dropout=0.0, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder, max_tokens=256)


def stock(trunk, prompt, *, behind=True, stop=STOP, **options):
    """Return what the stock ``generate`` makes of one prompt; an encoder-decoder's answer does not stand behind it."""
    from transformers import GenerationConfig

    told = {"max_new_tokens": 24, "eos_token_id": stop, "pad_token_id": stop, **options}
    ids = torch.tensor([prompt])
    grown = trunk.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=GenerationConfig(**told)
    )
    answer = grown[0, len(prompt) if behind else 1 :].tolist()
    return replace(GREEDY, stop_tokens=(stop,)).answer(answer)


@pytest.mark.parametrize(
    ("how", "options"),
    [
        ({"beams": 3}, {"num_beams": 3}),
        ({"beams": 4, "length_penalty": 2.0}, {"num_beams": 4, "length_penalty": 2.0}),
        ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
        ({"no_repeat_ngram": 2}, {"no_repeat_ngram_size": 2}),
        ({"beams": 2, "repetition_penalty": 1.2}, {"num_beams": 2, "repetition_penalty": 1.2}),
    ],
)
def test_rows_together_are_what_the_stock_generate_makes_of_each_alone(trunk, how, options):
    decoding = replace(GREEDY, **how)
    together = trunk.generate(PROMPTS, decoding)
    assert together == [stock(trunk, prompt, do_sample=False, **options) for prompt in PROMPTS]
    assert together != trunk.generate(PROMPTS, GREEDY)


def test_finished_hypotheses_are_those_of_a_row_alone(trunk):
    """A frequent token as the stop: hypotheses end at different lengths, and rows at different steps."""
    frequent = Counter(token for answer in trunk.generate(PROMPTS, GREEDY) for token in answer)
    stops = tuple(token for token, _ in frequent.most_common(3))
    how = replace(GREEDY, beams=3, stop_tokens=stops)
    together = trunk.generate(PROMPTS, how)
    assert together == [trunk.generate([prompt], how)[0] for prompt in PROMPTS]
    assert len({len(answer) for answer in together}) > 1


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 20}, {"top_p": 0.9}, {"top_k": 50, "top_p": 0.8, "repetition_penalty": 1.1}]
)
def test_a_draw_depends_on_the_row_and_the_seed_alone(trunk, options):
    how = replace(GREEDY, temperature=0.9, seed=1, **options)
    together = trunk.generate(PROMPTS, how)
    assert together == [trunk.generate([prompt], how)[0] for prompt in PROMPTS]
    assert trunk.generate(PROMPTS[::-1], how) == together[::-1]
    assert trunk.generate(PROMPTS, replace(how, seed=2)) != together


def test_draws_follow_the_softmax_of_scores_over_temperature(trunk):
    """The first token over many seeds against its probabilities: a chi-square test, cells of five at least."""
    from scipy.stats import chisquare

    prompt, temperature, num = PROMPTS[0], 0.7, 3000
    with torch.no_grad():
        logits_V = trunk.model(torch.tensor([prompt])).logits[0, -1]
    seeds_N = torch.tensor(
        [replace(GREEDY, temperature=temperature, seed=s).row_seed(prompt) for s in range(num)]
    )
    drawn_N = (logits_V / temperature + gumbel_BV(seeds_N, 0, len(logits_V))).argmax(-1)
    for seed in (0, 1, 2):
        how = replace(GREEDY, temperature=temperature, seed=seed, max_new_tokens=1)
        assert trunk.generate([prompt], how) == [[int(drawn_N[seed])]]
    expected_V = num * (logits_V.double() / temperature).softmax(-1)
    seen_V = torch.bincount(drawn_N, minlength=len(expected_V)).double()
    often_V = expected_V >= 5
    seen = [*seen_V[often_V].tolist(), float(seen_V[~often_V].sum())]
    wanted = [*expected_V[often_V].tolist(), float(expected_V[~often_V].sum())]
    assert chisquare(seen, wanted).pvalue > 1e-3


def test_top_k_and_top_p_bound_what_is_drawn(trunk):
    with torch.no_grad():
        logits_V = trunk.model(torch.tensor([PROMPTS[0]])).logits[0, -1] / 2.0
    order = logits_V.softmax(-1).sort(descending=True)
    nucleus = int((order.values.cumsum(0) < 0.8).sum()) + 1
    for options, most in (({"top_k": 3}, 3), ({"top_p": 0.8}, nucleus)):
        how = replace(GREEDY, temperature=2.0, max_new_tokens=1, **options)
        drawn = {trunk.generate([PROMPTS[0]], replace(how, seed=seed))[0][0] for seed in range(40)}
        assert drawn <= set(order.indices[:most].tolist())
        assert 1 < len(drawn) <= most < 200


def splitmix64(seed, count):
    """Yield the generator's outputs, from the paper's figure, on Python's own integers."""
    state = seed
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def test_noise_is_splitmix_read_as_gumbel():
    assert next(splitmix64(0, 1)) == 0xE220A8397B1DCDAF, "the published first output of seed 0"
    seeds = [0, 12345, 2**63 - 1]
    noise_BV = gumbel_BV(torch.tensor(seeds), 2, 5)
    for seed, row in zip(seeds, noise_BV, strict=True):
        bits = torch.tensor([z >> 12 for z in splitmix64(seed, 15)][10:], dtype=torch.float64)
        uniform = (bits + 0.5) / 2**52
        torch.testing.assert_close(row, -(-uniform.log()).log(), rtol=1e-12, atol=0)
    many = gumbel_BV(torch.tensor([5]), 0, 200_000)
    assert abs(many.mean() - 0.5772) < 0.02
    assert abs(many.var() - 1.6449) < 0.03


def test_stop_strings_end_each_row_by_its_text(trunk, tokenizer):
    free = [
        tokenizer.decode(answer) for answer in trunk.generate(PROMPTS, replace(GREEDY, max_new_tokens=48))
    ]
    stops = Stops((".", "xyz"), tokenizer.decode)
    how = replace(GREEDY, max_new_tokens=48, stops=stops)
    answers = trunk.generate(PROMPTS, how)
    texts = [tokenizer.decode(answer) for answer in answers]
    assert [stops.cut(text) for text in texts] == [stops.cut(text) for text in free]
    assert sum("." in text for text in texts) >= 2
    assert all(text.index(".") >= len(text) - 4 for text in texts if "." in text), (
        "nothing is decoded behind it"
    )
    assert answers == [trunk.generate([prompt], how)[0] for prompt in PROMPTS]
    searched = trunk.generate(PROMPTS, replace(how, beams=3))
    assert searched == [trunk.generate([prompt], replace(how, beams=3))[0] for prompt in PROMPTS]


def test_tokens_are_heard_as_they_come(trunk):
    said = []
    (answer,) = trunk.generate(PROMPTS[:1], GREEDY, heard=said.append)
    assert said == answer
    said.clear()
    stop = answer[5]
    (answer,) = trunk.generate(PROMPTS[:1], replace(GREEDY, stop_tokens=(stop,)), heard=said.append)
    assert said == [*answer, stop]


def test_a_group_counts_every_beam(trunk, monkeypatch):
    from weft.model import backbone

    sizes = []
    inner = backbone.continued
    monkeypatch.setattr(
        backbone,
        "continued",
        lambda model, prompts, how, **k: sizes.append(len(prompts)) or inner(model, prompts, how, **k),
    )
    monkeypatch.setattr(backbone, "_CACHED", 2 * (9 + 24) * 3)
    trunk.generate(PROMPTS, replace(GREEDY, beams=3))
    assert max(sizes) <= 3
    assert sum(sizes) == 4
    assert len(sizes) == 2


@pytest.mark.parametrize(
    ("how", "options"),
    [
        ({"beams": 3, "length_penalty": 0.5}, {"num_beams": 3, "length_penalty": 0.5}),
        ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"no_repeat_ngram": 2}, {"no_repeat_ngram_size": 2}),
    ],
)
@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_replies_of_an_encoder_decoder_are_those_of_the_stock_generate(saved, kind, how, options):
    folder = saved(kind, "AutoModelForSeq2SeqLM")
    replying = load_trunk(folder, wants_lm_head=True, dropout=0.0, device=torch.device("cpu"))
    prompts = [[5, 6, 7, 8, 9], [11], [20, 21, 22]]
    stop = 58  # a token that these do not begin from
    decoding = replace(GREEDY, max_new_tokens=10, stop_tokens=(stop,), **how)
    together = replying.generate(prompts, decoding)
    start = reply_start(replying.model.config)
    options = {**options, "max_new_tokens": 10, "decoder_start_token_id": start}
    assert together == [stock(replying, prompt, behind=False, stop=stop, **options) for prompt in prompts]
    assert any(together)


def test_replies_of_an_encoder_decoder_are_drawn_and_heard_row_by_row(saved):
    folder = saved("t5", "AutoModelForSeq2SeqLM")
    replying = load_trunk(folder, wants_lm_head=True, dropout=0.0, device=torch.device("cpu"))
    prompts = [[5, 6, 7, 8, 9], [11], [20, 21, 22]]
    how = replace(GREEDY, max_new_tokens=10, temperature=2.0)
    drawn = replying.generate(prompts, how)
    assert drawn == [replying.generate([prompt], how)[0] for prompt in prompts]
    assert len({tuple(answer) for answer in drawn}) == 3
    said = []
    assert replying.generate(prompts[:1], how, heard=said.append)[0] == [
        token for token in said if token != STOP
    ]


def test_penalties_do_not_see_the_tokens_that_stand_for_learnt_ones(saved):
    """A prompt's virtual tokens have ids of their own, which penalties must not take for text."""
    from weft.model.generate import processors

    how = replace(GREEDY, repetition_penalty=2.0)
    (penalty,) = processors(how, width=4, skipped=[2], seeds=[0])
    scores = torch.ones(1, 60)
    changed = penalty(torch.tensor([[50, 51, 7, 8]]), scores)
    assert (changed != 1).nonzero()[:, 1].tolist() == [7, 8]
