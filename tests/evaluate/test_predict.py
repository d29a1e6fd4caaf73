"""Answers in order, one trunk pass a text, whatever is asked beside it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.core.example import Encoded, Text
from weft.core.network import Network
from weft.errors import Interrupted
from weft.evaluate.predict import Watch, answer_all, batches_by_length, sum_losses
from weft.task.question_answering import QuestionAnswering, Spans

TEXTS = [(1, 2, 3), (4,), (5, 6, 7, 8, 9), (1, 2, 3), (10, 11)]


def rows(toy, texts=TEXTS):
    return {
        "mood": [toy.row(text, target=at % 2, gold=("bad", "good")[at % 2], where=f"m:{at}") for at, text in enumerate(texts)],
        "score": [toy.row(text, target=float(at), gold=float(at), where=f"s:{at}") for at, text in enumerate(texts[:3])],
    }  # fmt: skip


def ask(toy, encoded, *, budget=64, **changes):
    return answer_all(toy.network, toy.tasks, encoded, pad=0, budget=budget, dtype=torch.float32, **changes)


def test_equal_texts_of_all_tasks_pass_the_trunk_once(toy):
    found = ask(toy, rows(toy))
    assert sum(toy.network.trunk.rows) == found.num_texts == 4
    assert found.num_tokens == 3 + 1 + 5 + 2
    assert found.num_padded_tokens >= found.num_tokens
    assert found.answers["mood"][0] == found.answers["mood"][3]


def test_batched_equals_single_and_keeps_the_order(toy):
    encoded = rows(toy)
    together = ask(toy, encoded)
    for name, own in encoded.items():
        for row, answer in zip(own, together.answers[name], strict=True):
            (alone,) = ask(toy, {name: [row]}).answers[name]
            if answer.value is not None:
                assert alone.value == pytest.approx(answer.value, abs=1e-6)
            else:
                assert alone.label == answer.label
                assert alone.probabilities == pytest.approx(answer.probabilities, abs=1e-6)


@pytest.mark.parametrize("budget", [1, 6, 1000])
def test_the_budget_changes_batches_and_no_answer(toy, budget):
    values = [answer.value for answer in ask(toy, rows(toy), budget=budget).answers["score"]]
    assert values == pytest.approx(
        [answer.value for answer in ask(toy, rows(toy)).answers["score"]], abs=1e-6
    )


def test_losses_are_sums_over_their_weight(toy):
    encoded = rows(toy)
    found = ask(toy, encoded)
    each = [ask(toy, {"mood": [row]}).loss("mood") for row in encoded["mood"]]
    assert found.losses["mood"].weight == 5
    assert found.loss("mood") == pytest.approx(sum(each) / 5, abs=1e-6)


def test_losses_need_gold_everywhere_and_can_be_left_out(toy):
    encoded = rows(toy)
    encoded["mood"][1] = toy.row((4,), where="m:1")
    found = ask(toy, encoded)
    assert found.loss("mood") is None
    assert found.loss("score") is not None
    assert len(found.answers["mood"]) == 5
    assert ask(toy, rows(toy), losses=False).losses == {}


@pytest.mark.parametrize("training", [True, False])
def test_answers_are_made_without_dropout_and_the_mode_comes_back(toy, training):
    toy.network.train(training)
    first, second = (ask(toy, rows(toy)).answers for _ in range(2))
    assert first == second
    assert toy.network.training is training
    assert toy.network.heads["mood"].training is training


def test_somebody_can_watch_and_stop(toy):
    seen = []
    ask(toy, rows(toy), budget=4, watch=Watch(progress=lambda done, total: seen.append((done, total))))
    assert seen[-1] == (8, 8)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    with pytest.raises(Interrupted):
        ask(toy, rows(toy), budget=4, watch=Watch(stop=lambda: True))


def test_nothing_asked_is_nothing_answered(toy):
    found = ask(toy, {})
    assert (found.answers, found.num_texts) == ({}, 0)


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 60))
def test_batches_hold_every_row_once_within_the_budget(lengths, budget):
    found = list(batches_by_length(lengths, budget))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
    longest = [max(lengths[index] for index in batch) for batch in found]
    assert longest == sorted(longest, reverse=True)


def test_the_loss_of_an_example_larger_than_the_budget_is_summed_over_its_parts(toy):
    task, trunk = QuestionAnswering("qa", {}), toy.network.trunk
    network = Network(trunk, {"qa": task.head(trunk.info, dropout=0.0, seed=1)})
    texts = [Text((1, 2, 3, place), None) for place in range(4, 16)]
    spans = tuple((place % 3, place % 4) for place in range(4, 16))
    row = Encoded(texts[0].tokens, None, Spans(spans, None), ("x",), "q:1", more=tuple(texts[1:]))

    def summed(budget):
        trunk.rows.clear()
        options = {"pad": 0, "budget": budget, "dtype": torch.float32}
        return sum_losses(network, {"qa": task}, {"qa": [row]}, **options)["qa"], list(trunk.rows)

    (whole, passes), (cut, more_passes) = summed(1000), summed(20)
    assert (passes, more_passes) == ([12], [5, 5, 2])
    assert whole.weight == cut.weight == 12
    assert cut.total == pytest.approx(whole.total, rel=1e-6)
