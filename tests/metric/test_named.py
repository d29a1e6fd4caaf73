"""Text metrics against the packages of the field, and each against its own row statistics."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.core.example import Answer
from weft.errors import DataError
from weft.metric.bootstrap import interval
from weft.metric.named import NAMED, check_metrics, metrics_of, programs
from weft.metric.numeric import last_number
from weft.metric.passing import NUM_PASSED, NUM_RUN, chance, pass_at
from weft.metric.rouge import common_length
from weft.metric.text import references, text_metrics
from weft.metric.translation import tokenizer_for

ENGLISH = (
    ["the cat sat on the mat .", 'He said, "no"!', "a", "two of them went home early", ""],
    ["the cat is on the mat", "he said: yes!", "a", "three of them went home", "nothing"],
)
CHINESE = (
    ["今天天气很好，我们去公园。", "他说Python很难", "三", "上海的房价 2023 年上涨"],
    ["今天天气真好，我们去了公园。", "他说 Python 不难", "四", "2023年上海房价上涨了"],
)
SEVERAL = (
    [("a red house", "the red house"), ("no",), ("it is late", "late", "it is too late now")],
    ["the red house stands", "no", "it is late now"],
)


def answers(texts) -> list[Answer]:
    return [Answer(text=text) for text in texts]


def metric(name):
    return metrics_of([name])[0]


def signature(name, golds) -> str:
    own = metric(name)
    assert own.signature is not None
    return own.signature(golds)


def streams(golds):
    most = max(len(references(gold)) for gold in golds)
    return [[(*references(gold), *[None] * most)[at] for gold in golds] for at in range(most)]


@pytest.mark.parametrize("golds_and_texts", [ENGLISH, CHINESE, SEVERAL])
def test_bleu_and_chrf_are_sacrebleus(golds_and_texts):
    import sacrebleu

    golds, texts = golds_and_texts
    tokenizer = "zh" if golds_and_texts is CHINESE else "13a"
    bleu = sacrebleu.corpus_bleu(texts, streams(golds), tokenize=tokenizer, force=True).score
    assert metric("bleu").value(golds, answers(texts)) == pytest.approx(bleu, abs=1e-9)
    assert metric("chrf").value(golds, answers(texts)) == pytest.approx(
        sacrebleu.corpus_chrf(texts, streams(golds)).score, abs=1e-9
    )
    assert f"tok:{tokenizer}" in signature("bleu", golds)
    assert ("nrefs:var" if golds_and_texts is SEVERAL else "nrefs:1") in signature("chrf", golds)
    assert re.search(r"version:\d", signature("bleu", golds))


@pytest.mark.parametrize("golds_and_texts", [ENGLISH, SEVERAL])
def test_rouge_is_the_packages(golds_and_texts):
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    names = ["rouge1", "rouge2", "rougeL"]
    own = scorer.RougeScorer(names, use_stemmer=False)
    golds, texts = golds_and_texts
    scores = [own.score_multi(references(gold), text) for gold, text in zip(golds, texts, strict=True)]
    for name in names:
        expected = np.mean([score[name].fmeasure for score in scores])
        assert metric(name).value(golds, answers(texts)) == pytest.approx(expected, abs=1e-12)


def test_rouge_reads_chinese_by_character():
    golds, texts = ["今天天气好"], answers(["天气今天好"])
    assert metric("rouge1").value(golds, texts) == 1.0
    assert metric("rouge2").value(golds, texts) == pytest.approx(2 * 2 / 8)  # 今天, 天气
    assert metric("rougeL").value(golds, texts) == pytest.approx(2 * 3 / 10)


WORDS = st.text(st.sampled_from("ab 上海.12"), max_size=14)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(WORDS, min_size=1, max_size=3), WORDS), min_size=1, max_size=5))
def test_every_value_is_finish_of_the_summed_statistics(rows):
    golds = [tuple(gold) if len(gold) > 1 else gold[0] for gold, _ in rows]
    found = answers([text for _, text in rows])
    for name in NAMED:
        own = metric(name)
        statistics = own.statistics(golds, found)
        assert statistics.shape[0] == len(rows)
        assert float(own.finish(statistics.sum(axis=0))) == pytest.approx(
            own.value(golds, found), abs=1e-9
        ), name


@pytest.mark.parametrize("name", [*NAMED])
def test_perfect_answers_have_the_best_value(name):
    golds = ["the cat sat on the mat", "1 2 3 4 5"]
    assert metric(name).value(golds, answers(golds)) == pytest.approx(metric(name).best)


def test_intervals_of_corpus_scores_are_those_of_resampled_corpora():
    """The bootstrap of summed statistics against sacrebleu itself on every resampled corpus."""
    import sacrebleu

    golds, texts = ENGLISH
    own = metric("bleu")
    low, high = interval(own, golds, answers(texts), resamples=200, seed=3)
    draws = np.random.default_rng(3).integers(len(golds), size=(200, len(golds)))
    scores = [
        sacrebleu.corpus_bleu([texts[at] for at in row], [[golds[at] for at in row]], force=True).score
        for row in draws
    ]
    assert (low, high) == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])), abs=1e-8)


def test_the_tokenizer_is_that_of_the_references():
    assert tokenizer_for(["你好，世界", "ok"]) == "zh"
    assert tokenizer_for(["東京に行きます"]) == "char"
    assert tokenizer_for(["a long English text with 上海 in it"]) == "13a"
    assert tokenizer_for([("123", "...")]) == "13a"


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
def test_common_subsequences_have_the_length_of_the_table(first, second):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    assert common_length(first, second) == table[-1][-1]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Natalia sold 48/2 = <<48/2=24>>24 clips.\n#### 72", 72),
        ("The total is $1,234,567.50.", Fraction(2469135, 2)),
        ("the answer is -5", -5),
        ("10 - 3 = 7", 7),
        ("10-3", 3),
        ("x = 3/4", Fraction(3, 4)),
        (r"so \boxed{\frac{1}{2}} and 9 more", Fraction(1, 2)),
        ("共有１２个苹果", 12),
        ("温度是−3度", -3),
        ("about .5 or 50%", 50),
        ("1, 2, 3", 3),
        ("#### 1,000", 1000),
        ("none", None),
        ("5/0", None),
    ],
)
def test_the_last_number(text, number):
    assert last_number(text) == number


def test_numeric_match_compares_values():
    golds = ["so 9 * 2 = 18\n#### 18", "0.5", "3", "four", ("1", "one")]
    texts = answers(["it is 18.00 dollars", "1/2", "4", "four", "1.0"])
    assert metric("numeric_match").value(golds, texts) == 0.8


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (5, 2, 3), (6, 0, 2), (4, 4, 4), (10, 1, 10)])
def test_pass_at_k_is_the_share_of_draws_with_a_pass(n, c, k):
    draws = list(combinations([True] * c + [False] * (n - c), k))
    assert chance(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_needs_programs_that_were_run():
    rows = [Answer(text="", extra={NUM_RUN: 4, NUM_PASSED: passed}) for passed in (0, 1, 4)]
    assert pass_at(2).value(["x"] * 3, rows) == pytest.approx((0 + 0.5 + 1) / 3)
    with pytest.raises(DataError, match=r"pass@1: answers must have been run"):
        pass_at(1).value(["x"], [Answer(text="print()")])
    with pytest.raises(ValueError, match="needs 5 programs"):
        chance(4, 1, 5)


def test_names():
    assert [one.name for one in metrics_of(["bleu", "pass@5", "exact_match"])] == [
        "bleu",
        "pass@5",
        "exact_match",
    ]
    assert check_metrics(["rougeL", "pass@10"]) == ("rougeL", "pass@10")
    assert [programs(name) for name in ("pass@3", "pass@", "pass@x", "pass@²", "bleu")] == [3, 0, 0, 0, 0]
    for wrong, message in (
        (["blue"], "Did you mean 'bleu'"),
        (["pass@0"], "is none"),
        (["bleu", "bleu"], "each metric once"),
    ):
        with pytest.raises(ValueError, match=message):
            check_metrics(wrong)


def test_only_metrics_that_were_named_choose_checkpoints():
    assert [one.selects for one in text_metrics()] == [False, True]
    assert all(one.selects for one in metrics_of([*NAMED, "pass@1"]))
    assert math.isclose(text_metrics()[0].value(["a"], answers(["a"])), 1.0)
