"""What families on a text or a pair read of their rows, and the one vector that they make of it."""

from __future__ import annotations

import pytest

from weft.core.example import Dropped, Row
from weft.core.features import Pooling
from weft.core.stock import StockForm
from weft.errors import DataError
from weft.task.documents import WindowPooling, Windows
from weft.task.heads import Units
from weft.task.sequence import Judged
from weft.task.texts import Texts

ALONE = Texts({"text": "sentence", "pair": None, "label": "verdict"})
PAIR = Texts({"text": "a", "pair": "b"}, Pooling.MEAN, Windows(pooling=WindowPooling.MAX, stride=2))


@pytest.mark.parametrize("texts", [ALONE, PAIR])
def test_it_comes_back_from_its_config(texts):
    assert Texts.from_config(texts.config()) == texts
    assert set(texts.config()) == {"columns", "pooling", "windows"}


def test_a_bundle_from_before_windows_is_read():
    config = ALONE.config()
    del config["windows"]
    assert Texts.from_config(config) == ALONE


def test_a_question_stands_in_the_columns_that_were_learnt_from():
    assert ALONE.ask("好电影", None, task="t") == Row({"sentence": "好电影"}, "question")
    assert PAIR.ask("a film", "a movie", task="t") == Row({"a": "a film", "b": "a movie"}, "question")
    assert (ALONE.inputs, PAIR.inputs) == (("sentence",), ("a", "b"))
    with pytest.raises(DataError, match="mood: the task takes one text, but two were given"):
        ALONE.ask("a film", "a movie", task="mood")
    with pytest.raises(DataError, match="mood: the task takes a pair of texts, but one was given"):
        PAIR.ask("a film", None, task="mood")


def test_rows_without_text_are_dropped_before_they_are_judged(kit):
    judged = []

    def judge(row):
        judged.append(row.where)
        return Judged(len(judged), row.where) if row.where != "f:4" else Dropped(row.where, "no label")

    values = [
        {"a": "好", "b": "x y"},
        {"a": " ", "b": "x"},
        {"a": "x"},
        {"a": "x", "b": "y"},
        {"a": "y", "b": 5},
    ]
    rows = [Row(one, f"f:{number}") for number, one in enumerate(values, 1)]
    first, second, third, fourth, fifth = PAIR.encode(rows, kit.words, judge)
    assert judged == ["f:1", "f:4", "f:5"]
    assert (second, third) == (Dropped("f:2", "empty text"), Dropped("f:3", "empty text"))
    assert fourth == Dropped("f:4", "no label")
    assert [(one.target, one.gold, one.where) for one in (first, fifth)] == [
        (1, "f:1", "f:1"),
        (3, "f:5", "f:5"),
    ]
    (own,) = kit.words.texts(["y"], ["5"])
    assert (fifth.tokens, fifth.segments) == (own.tokens, own.segments)
    assert PAIR.encode([], kit.words, judge) == []


def test_a_head_pools_as_asked_in_the_units_given(kit):
    info = kit.trunk().info
    head = PAIR.head(info, 3, task="t", dropout=0.25, seed=1, units=Units(2.0, 3.0))
    assert (head.pooling, head.windows, head.dropout.p) == (Pooling.MEAN, WindowPooling.MAX, 0.25)
    assert (head.units.shift, head.units.scale) == (2.0, 3.0)
    assert (tuple(head.out.weight.shape), head.out.bias is None) == ((3, info.width), False)
    plain = ALONE.head(kit.trunk(has_bias=False).info, 1, task="t", dropout=0.0, seed=1)
    assert (plain.pooling, plain.windows, plain.units) == (info.pooling, WindowPooling.MEAN, None)
    assert plain.out.bias is None


def test_only_another_pooling_makes_an_old_head_useless():
    assert PAIR.changed({**PAIR.config(), "columns": {}, "windows": None}) is None
    assert PAIR.changed(ALONE.config()) == "pooling was None and is now mean"
    assert ALONE.changed(PAIR.config()) == "pooling was mean and is now None"


def test_a_stock_model_is_told_of_windows():
    stock = PAIR.stock(("no", "yes"), "single_label_classification")
    assert (stock.form, stock.labels, stock.pipeline) == (
        StockForm.SEQUENCE,
        ("no", "yes"),
        "text-classification",
    )
    assert stock.windows == {"pooling": "max", "stride": 2, "most": 16}
    assert ALONE.stock(("x",), "regression").windows is None
