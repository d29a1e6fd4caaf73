"""Scores by length, the worst rows with their texts, samples of what was generated."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.example import Answer, Row
from weft.evaluate.details import MOST_SIGNS, NUM_SAMPLES, NUM_WORST, cut, detail, quarters, question
from weft.report.details import Part, TaskDetail
from weft.task.generation import Generation
from weft.task.schemes import Scheme
from weft.task.spans import Unit
from weft.task.tagging import Tagging


def says(label, share):
    other = "bad" if label == "good" else "good"
    return Answer(label=label, probabilities={label: share, other: 1 - share})


def of_mood(toy, golds, answers, *, lengths=None):
    lengths = lengths or [1] * len(golds)
    encoded = [
        toy.row(range(length), gold=gold, where=f"f:{at}")
        for at, (gold, length) in enumerate(zip(golds, lengths, strict=True))
    ]
    rows = {one.where: Row({"text": f"text {one.where}"}, one.where) for one in encoded}
    return detail(toy.tasks["mood"], encoded, answers, rows, split="test", resamples=50, seed=0)


def block(found, part):
    blocks = [one for one in found.blocks if one.part is part]
    return blocks[0] if blocks else None


def test_the_surest_of_the_wrong_comes_first(toy):
    golds = ["good"] * 30
    answers = [says("good", 0.99)] * 15 + [says("bad", 0.5 + at / 40) for at in range(15)]
    found = of_mood(toy, golds, answers)
    worst = block(found, Part.WORST).examples
    assert len(worst) == NUM_WORST
    assert [one.where for one in worst] == [f"f:{at}" for at in range(29, 19, -1)]
    first = worst[0]
    assert (first.text, first.gold, first.answer) == ("text f:29", "good", "bad")
    assert first.confidence == pytest.approx(0.5 + 14 / 40)
    assert block(of_mood(toy, golds, [says("good", 0.9)] * 30), Part.WORST) is None


def test_rows_without_gold_are_left_out(toy):
    found = of_mood(toy, ["good", None, "bad"], [says("good", 0.9)] * 3)
    assert sum(map(sum, block(found, Part.CONFUSION).counts)) == 2


def test_scores_by_length_are_scores_of_those_rows(toy):
    lengths = [2] * 10 + [5] * 10 + [9] * 10 + [20] * 10
    answers = [says("good", 0.9)] * 30 + [says("bad", 0.9)] * 10
    slices = block(of_mood(toy, ["good"] * 40, answers, lengths=lengths), Part.LENGTHS)
    assert slices.metric == "accuracy"
    assert [(one.low, one.high, one.n) for one in slices.slices] == [
        (2, 2, 10),
        (5, 5, 10),
        (9, 9, 10),
        (20, 20, 10),
    ]
    assert [one.value for one in slices.slices] == [1, 1, 1, 0]
    assert slices.slices[3].interval == (0.0, 0.0)


@pytest.mark.parametrize("lengths", [[3] * 40, [1, 2, 3, 4] * 2])
def test_few_rows_or_one_length_have_no_slices(toy, lengths):
    num = len(lengths)
    assert (
        block(of_mood(toy, ["good"] * num, [says("good", 0.9)] * num, lengths=lengths), Part.LENGTHS) is None
    )


@given(st.lists(st.integers(1, 12), max_size=60))
def test_quarters_hold_every_row_once_and_do_not_overlap(lengths):
    groups = quarters(lengths)
    assert sorted(at for group in groups for at in group) == list(range(len(lengths)))
    assert len(groups) <= 4
    ends = [(min(lengths[at] for at in group), max(lengths[at] for at in group)) for group in groups]
    assert all(before[1] < after[0] for before, after in pairwise(ends))


def test_spans_are_read_with_their_words_in_english_and_chinese(toy):
    columns = {"tokens": "tokens", "tags": "tags"}
    task = Tagging("names", columns, ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"), Scheme.BIO)
    rows = {
        "f:1": Row({"tokens": ["john", "smith", "in", "paris"]}, "f:1"),
        "f:2": Row({"tokens": "我在上海"}, "f:2"),
    }
    golds = [("B-PER", "I-PER", "O", "B-LOC"), ("O", "O", "B-LOC", "I-LOC")]
    given_tags = [("B-PER", "O", "O", "O"), ("O",) * 4]
    encoded = [toy.row((1,), gold=gold, where=where) for gold, where in zip(golds, rows, strict=True)]
    answers = [Answer(tags=tags, spans=()) for tags in given_tags]
    found = detail(task, encoded, answers, rows, split="dev", resamples=10, seed=0)
    first, second = sorted(block(found, Part.WORST).examples, key=lambda one: one.where)
    assert (first.text, first.gold, first.answer) == (
        "john smith in paris",
        "PER: john smith · LOC: paris",
        "PER: john",
    )
    assert (second.text, second.gold, second.answer) == ("我在上海", "LOC: 上海", "–")


def test_spans_marked_in_a_text_are_shown_as_they_stand_there(toy):
    """Each sign of a Chinese text is a word; what is written together is not torn apart on the page."""
    labels = ("O", "B-THING", "I-THING")
    task = Tagging("names", {"tokens": "text", "tags": "label"}, labels, Scheme.BIO, unit=Unit.CHARACTERS)
    text = "她在 iPhone 7 上读书"
    row = Row({"text": text, "label": [[3, 11, "THING"]]}, "f:1")
    num_signs = len(text.replace(" ", ""))
    gold = tuple(
        "O" if at not in range(2, 9) else f"{'B' if at == 2 else 'I'}-THING" for at in range(num_signs)
    )
    encoded = [toy.row((1,), gold=gold, where="f:1")]
    answers = [Answer(tags=("O",) * num_signs, spans=())]
    (shown,) = block(
        detail(task, encoded, answers, {"f:1": row}, split="dev", resamples=10, seed=0), Part.WORST
    ).examples
    assert (shown.text, shown.gold, shown.answer) == (text, "THING: iPhone 7", "–")


def test_generated_texts_are_sampled_and_not_chosen(toy):
    encoded = [toy.row((at,), gold="yes", where=f"f:{at}") for at in range(18)]
    turns = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "yes"}]
    rows = {one.where: Row({"messages": turns}, one.where) for one in encoded}
    spec = Generation.spec_type.model_validate({"kind": "generation", "train": "x.jsonl"})
    task = Generation.fit("say", spec, list(rows.values()))
    answers = [Answer(text="yes")] * 17 + [Answer(text="no")]
    found = detail(task, encoded, answers, rows, split="test", resamples=10, seed=0)
    samples = block(found, Part.SAMPLES).examples
    assert [one.where for one in samples] == [f"f:{at * 18 // NUM_SAMPLES}" for at in range(NUM_SAMPLES)]
    assert (samples[0].text, samples[0].gold, samples[0].answer) == ("user: Is it?", "yes", "yes")
    assert TaskDetail.model_validate_json(found.model_dump_json()) == found


def test_a_question_is_made_of_its_columns():
    row = Row({"premise": "a cat", "hypothesis": " sleeps ", "none": None}, "f:1")
    assert question(row, ("premise", "hypothesis", "none")) == "a cat\nsleeps"
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    talk = Row({"messages": turns}, "f:1")
    assert question(talk, ("messages",), ("hey", "hello")) == "user: hi"
    assert question(talk, ("messages",)) == "user: hi\nassistant: hello"
    shared = Row({"conversations": [{"from": "human", "value": "hi"}]}, "f:1")
    assert question(shared, ("conversations",), "hi") == "human: hi"
    assert question(Row({"choices": ["a cat", "上海"]}, "f:1"), ("choices",)) == "a cat\n上海"


@given(st.text(max_size=900))
def test_cut_texts_keep_their_ends(text):
    found = cut(text)
    assert len(found) <= MOST_SIGNS + 3
    if len(text) <= MOST_SIGNS:
        assert found == text
    else:
        assert " … " in found
        assert text.startswith(found.split(" … ")[0][:10])


def test_a_number_is_worst_where_it_is_furthest(toy):
    encoded = [toy.row((1,), gold=float(at), where=f"f:{at}") for at in range(6)]
    rows = {one.where: Row({"text": one.where}, one.where) for one in encoded}
    answers = [Answer(value=2.0)] * 6
    found = detail(toy.tasks["score"], encoded, answers, rows, split="dev", resamples=10, seed=0)
    assert [one.where for one in block(found, Part.WORST).examples] == ["f:5", "f:0", "f:4", "f:1", "f:3"]
    assert block(found, Part.SCATTER).n == 6
