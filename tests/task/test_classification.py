"""Classification: labels fitted and refused, options that act, and learning that survives saving."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError

from weft.core.example import Dropped, Encoded, Purpose
from weft.core.features import Pooling
from weft.errors import DataError
from weft.task.registry import FAMILIES

ROWS = [{"text": "good", "label": "pos"}, {"text": "bad", "label": "neg"}]


def _labelled(*labels):
    return [{"text": f"film {number}", "label": label} for number, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "fitted"),
    [
        (["pos", "neg"], ("neg", "pos")),
        ([1, 0, 10, 2], ("0", "1", "2", "10")),
        ([True, False], ("false", "true")),
        ([1.0, 0.0, None], ("0", "1")),
        (["1", 0], ("0", "1")),
        (["好", "坏"], ("坏", "好")),
    ],
)
def test_labels_are_those_of_the_rows_in_order(kit, labels, fitted):
    assert kit.fit("classification", _labelled(*labels)).labels == fitted


def test_labels_of_the_recipe_fix_names_and_order(kit):
    task = kit.fit("classification", _labelled(2, 0, 1, 1), labels=[1, 0])
    assert task.labels == ("1", "0")
    encoded = task.encode(kit.rows(_labelled(2, 0, 1, 1)), kit.words, Purpose.LEARN)
    assert encoded[0] == Dropped("rows.jsonl:1", "label not in the list")
    assert [one.target for one in encoded[1:]] == [1, 0, 0]


def test_one_label_of_the_recipe_is_refused_as_such(kit):
    words = r"tasks\.t\.labels: must name at least 2 labels, but names a alone\. Column 'label' holds a, b\."
    with pytest.raises(DataError, match=words):
        kit.fit("classification", _labelled("a", "b"), labels=["a"])
    assert kit.fit("classification", _labelled("a", "b"), labels=["a"], multi_label=True).labels == ("a",)


@pytest.mark.parametrize("labels", [["pos", "pos"], [None, "", None], ["only", None]])
def test_fewer_than_two_labels_are_refused(kit, labels):
    with pytest.raises(DataError, match=r"tasks\.t: column 'label' must hold at least 2 different labels"):
        kit.fit("classification", _labelled(*labels))


def test_labels_that_no_row_has_are_refused_with_the_choices(kit):
    with pytest.raises(DataError, match=r"tasks\.t\.labels.*Choices: neg, pos"):
        kit.fit("classification", ROWS, labels=["positive", "negative"])


def test_repeated_labels_are_refused_when_the_recipe_is_read(kit):
    with pytest.raises(ValidationError, match="pos is repeated"):
        kit.fit("classification", ROWS, labels=["pos", "pos"])


def test_a_missing_column_is_refused(kit):
    with pytest.raises(DataError, match="label"):
        kit.fit("classification", [{"text": "good", "verdict": "x"}])
    task = kit.fit(
        "classification",
        [{"text": "a", "verdict": "x"}, {"text": "b", "verdict": "y"}],
        columns={"label": "verdict"},
    )
    assert task.texts.columns == {"text": "text", "pair": None, "label": "verdict"}


def test_unusable_rows_are_dropped_with_their_reason(kit):
    task = kit.fit("classification", ROWS)
    rows = kit.rows(
        [
            *ROWS,
            {"text": "  ", "label": "pos"},
            {"label": "pos"},
            {"text": "x"},
            {"text": "x", "label": "odd"},
        ]
    )
    found = task.encode(rows, kit.words, Purpose.LEARN)
    assert [one.reason for one in found[2:]] == [
        "empty text",
        "empty text",
        "no label",
        "label not in the list",
    ]
    assert [one.where for one in found] == [row.where for row in rows]
    assert task.encode(rows, kit.words, Purpose.ANSWER)[5].reason == "label not in the list"


def test_a_pair_needs_both_texts(kit):
    rows = [{"sentence1": "a", "sentence2": "b", "label": 0}, {"sentence1": "a", "sentence2": "", "label": 1}]
    task = kit.fit("classification", rows)
    first, second = task.encode(kit.rows(rows), kit.words, Purpose.LEARN)
    assert set(first.segments) == {0, 1}
    assert second.reason == "empty text"
    with pytest.raises(DataError, match="takes a pair of texts, but one was given"):
        task.ask("only one")
    with pytest.raises(DataError, match="takes one text, but two were given"):
        kit.fit("classification", ROWS).ask("one", "two")


def test_multi_label_rows(kit):
    bench = kit.bench("multi_label")
    assert bench.task.labels == ("animal", "red")
    assert [one.target for one in bench.learn[:4]] == [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)]
    assert [one.gold for one in bench.learn[:4]] == [("animal", "red"), ("red",), ("animal",), ()]
    assert bench.learn[4].gold == ("animal", "red")
    assert bench.task.describe([one.gold for one in bench.learn]) == {"animal": 3, "red": 3}


def test_one_label_is_enough_when_it_may_be_absent(kit):
    rows = [{"text": "a", "label": ["spam"]}, {"text": "b", "label": []}]
    assert kit.fit("classification", rows, multi_label=True).labels == ("spam",)
    with pytest.raises(DataError, match="at least 1 different"):
        kit.fit("classification", [{"text": "a", "label": []}], multi_label=True)


def test_the_threshold_decides_what_is_answered(kit):
    bench = kit.bench("multi_label")
    network = kit.network(bench.task)
    low, high = (
        kit.fit(
            "classification",
            kit.samples["multi_label"].rows,
            name="multi_label",
            multi_label=True,
            threshold=x,
        )
        for x in (0.01, 0.99)
    )
    assert all(answer.label == ["animal", "red"] for answer in kit.answers(network, low, bench.ask))
    assert all(answer.label == [] for answer in kit.answers(network, high, bench.ask))
    assert low.same_head(high.config()) is None  # the threshold is not the head's
    with pytest.raises(ValidationError, match="needs multi_label: true, but that is not set"):
        kit.fit("classification", ROWS, threshold=0.4)


def test_pooling_of_the_recipe_reaches_the_head(kit):
    info = kit.trunk().info
    assert kit.fit("classification", ROWS).head(info, dropout=0.0, seed=0).pooling is Pooling.POOLER
    assert (
        kit.fit("classification", ROWS, pooling="last").head(info, dropout=0.0, seed=0).pooling
        is Pooling.LAST
    )


def test_a_bias_is_there_where_the_architectures_own_head_has_one(kit):
    task = kit.fit("classification", ROWS)
    for has_bias in (True, False):
        head = task.head(kit.trunk(has_bias=has_bias).info, dropout=0.0, seed=0)
        assert (head.out.bias is not None) is has_bias


def test_answers_carry_probabilities_that_sum_to_one(kit):
    bench = kit.bench("pairs")
    for answer in kit.answers(kit.network(bench.task), bench.task, bench.ask):
        assert sum(answer.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
        assert answer.label == max(answer.probabilities, key=answer.probabilities.get)
        assert list(answer.probabilities) == ["0", "1", "2"]


def test_the_baseline_is_the_majority(kit):
    task = kit.fit("classification", ROWS)
    (answer,) = task.baseline(["pos", "pos", "neg"], 1)
    assert answer.label == "pos"
    assert answer.probabilities == pytest.approx({"neg": 1 / 3, "pos": 2 / 3})
    assert task.baseline(["pos", "neg"], 1)[0].label == "neg"  # of equals the first in label order
    many = kit.bench("multi_label").task
    assert many.baseline([("red",), (), ("red",), ("animal",)], 2)[1].label == ["red"]


def test_why_a_head_cannot_be_kept(kit):
    task = kit.fit("classification", ROWS)
    change = {"labels": ["neg", "neutral", "pos"], "multi_label": True, "pooling": "mean"}
    reasons = {key: task.same_head({**task.config(), key: value}) for key, value in change.items()}
    assert reasons == {
        "labels": "the labels changed: now without neutral",
        "multi_label": "multi_label is now False",
        "pooling": "pooling was mean and is now None",
    }
    assert task.same_head({**task.config(), "labels": ["pos", "neg"]}) == "the labels are in another order"
    assert task.same_head({**task.config(), "columns": {"text": "other"}, "threshold": 0.9}) is None


def test_losses_are_the_leaves(kit):
    bench, many = kit.bench("classification"), kit.bench("multi_label")
    target = bench.task.collate(bench.learn[:2], [0, 1], None)
    assert target.values["labels"].tolist() == [1, 0]
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([1, 0]), reduction="sum")
    torch.testing.assert_close(bench.task.loss(logits, target).total, expected)
    target = many.task.collate(many.learn[:2], [0, 1], None)
    expected = (
        torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor([[1.0, 1], [0, 1]])) * 2
    )
    torch.testing.assert_close(many.task.loss(logits, target).total, expected)


def test_long_texts_are_cut_and_counted(kit):
    (encoded,) = kit.fit("classification", ROWS).encode(
        kit.rows([{"text": "good " * 100, "label": "pos"}]), kit.words, Purpose.LEARN
    )
    assert isinstance(encoded, Encoded)
    assert (len(encoded.tokens), encoded.num_cut) == (64, 38)
    assert json.dumps(encoded.gold) == '"pos"'


def test_rows_without_an_agreed_label_are_rows_without_a_label(kit):
    rows = [
        {"sentence1": "a", "sentence2": "b", "gold_label": label} for label in ("neutral", "entailment", "-")
    ]
    task = kit.fit("classification", rows)
    assert task.labels == ("entailment", "neutral")
    assert [getattr(one, "reason", "") for one in task.encode(kit.rows(rows), kit.words, Purpose.LEARN)] == [
        "",
        "",
        "no label",
    ]
    asked = task.encode(kit.rows([{**rows[0], "gold_label": -1}]), kit.words, Purpose.ANSWER)
    assert asked[0].gold is None
    moods = [{"text": "a", "label": label} for label in (-1, 0, 1)]
    assert kit.fit("classification", moods).labels == ("-1", "0", "1")
    assert kit.fit("classification", rows, labels=["-", "neutral"]).labels == ("-", "neutral")


@pytest.mark.parametrize("kind", ["classification", "ordinal"])
def test_ids_are_answered_by_their_names(kit, kind):
    rows = [{"text": "a film", "label": label} for label in (0, 2, 1, -1)]
    names = ["entailment", "neutral", "contradiction"]
    task = kit.fit(kind, rows, labels=names)
    encoded = task.encode(kit.rows(rows), kit.words, Purpose.ANSWER)
    assert [one.gold for one in encoded] == ["entailment", "contradiction", "neutral", None]
    assert type(task).from_config("t", task.config()) == task
    assert kit.answers(kit.network(task), task, encoded)[0].label in names
    found = task.encode(
        kit.rows([{"text": "a", "label": "neutral"}, {"text": "a", "label": 3}]), kit.words, Purpose.ANSWER
    )
    assert found[0].gold == "neutral"
    assert found[1].reason == "label not in the list"


def test_ids_of_several_labels_are_answered_by_their_names(kit):
    rows = [{"text": "a film", "label": label} for label in ([0, 1], "1|2", [])]
    task = kit.fit(
        "classification", rows, labels=["red", "green", "blue"], multi_label=True, balance="weights"
    )
    found = task.encode(kit.rows(rows), kit.words, Purpose.LEARN)
    assert [one.gold for one in found] == [("red", "green"), ("green", "blue"), ()]
    assert task.criterion.weights == (2.0, 0.5, 2.0)


@pytest.mark.parametrize(("metric", "first"), [(None, "accuracy"), ("mcc", "mcc"), ("f1:pos", "f1:pos")])
def test_the_metric_that_a_recipe_names_comes_first_and_is_saved(kit, metric, first):
    task = kit.fit("classification", kit.samples["classification"].rows, metric=metric)
    again = FAMILIES["classification"].from_config("t", json.loads(json.dumps(task.config())))
    assert [one.metrics[0].name for one in (task, again)] == [first] * 2
    old = {key: value for key, value in task.config().items() if key != "metric"}
    assert FAMILIES["classification"].from_config("t", old).metrics[0].name == "accuracy"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"metric": "mc"}, "metric: must be one of accuracy, macro_f1, mcc, f1:<label>, but is mc"),
        ({"metric": "ece"}, "but is ece"),
        ({"metric": "accuracy", "multi_label": True}, "must be one of micro_f1, macro_f1, subset_accuracy, but is"),
        ({"metric": "f1:pos", "multi_label": True}, "but is f1:pos"),
        ({"metric": "f1:po"}, r"tasks\.t\.metric: must be the F1 of a label, but 'po' is none. Did you mean 'pos'"),
    ],
)  # fmt: skip
def test_a_metric_that_there_is_not_is_refused(kit, options, says):
    with pytest.raises(ValueError, match=says):
        kit.fit("classification", kit.samples["classification"].rows, **options)
