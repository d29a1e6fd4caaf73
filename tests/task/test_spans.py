"""Spans marked in a text: the ways in which they are written are one, and what cannot be is refused with its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.example import Dropped, Encoded, Purpose, Row
from weft.errors import DataError
from weft.evaluate.details import question
from weft.metric.tagging import spans
from weft.task.registry import FAMILIES
from weft.task.spans import Reading, Unit, are_spans, find_columns, unit_of
from weft.task.spans import read as read_in
from weft.task.words import units

ZH = "大卫在伦敦买钟"  # 大卫 0-2, 伦敦 3-5
EN = 'Anna left "Acme Inc." for New York.'
COLUMNS = {"tokens": "text", "tags": "label"}

CLUENER = {"name": {"大卫": [[0, 1]]}, "address": {"伦敦": [[3, 4]]}, "book": None}
WAYS: dict[str, Any] = {
    "cluener": CLUENER,
    "json of it": json.dumps(CLUENER, ensure_ascii=False),
    "prodigy": [{"start": 0, "end": 2, "label": "name"}, {"start": 3, "end": 5, "label": "address"}],
    "cmeee": [
        {"start_idx": 3, "end_idx": 4, "type": "address", "entity": "伦敦"},
        {"start_idx": 0, "end_idx": 1, "type": "name", "entity": "大卫"},
    ],
    "label studio": [
        {"start": 0, "end": 2, "labels": ["name"], "text": "大卫"},
        {"start": 3, "end": 5, "labels": ["address"], "text": "伦敦"},
    ],
    "doccano": [[0, 2, "name"], [3, 5, "address"]],
    "doccano's other": [
        {"start_offset": 0, "end_offset": 2, "label": "name", "id": 7},
        {"start_offset": 3, "end_offset": 5, "label": "address", "id": 8},
    ],
    "twice": [[3, 5, "address"], (0, 2, "name"), [3, 5, "address"]],
}


def read(given_row: Row, columns: dict[str, str], unit: Unit = Unit.WORDS) -> Reading | None:
    return read_in(given_row, columns, unit)


def row(text: Any, label: Any) -> Row:
    return Row({"text": text, "label": label}, "f.jsonl:3")


@pytest.mark.parametrize("name", WAYS)
def test_all_ways_say_the_same(name: str):
    assert are_spans(WAYS[name])
    found = read(row(ZH, WAYS[name]), COLUMNS)
    assert found is not None
    assert found.words == tuple(ZH)
    assert found.spans == (("name", 0, 2), ("address", 3, 5))


@pytest.mark.parametrize(
    "value", [["O", "B-x"], [0, 1, 2], "O B-x", [], {}, None, "x", {"a": 1}, ["a", "b", "c"], [[0, 1]], 5]
)
def test_tags_and_labels_are_no_spans(value: Any):
    assert not are_spans(value)


def test_words_are_the_units_that_spans_end_at():
    marked = [(11, 19, "company"), (26, 34, "city")]
    found = read(row(EN, [list(one) for one in marked]), COLUMNS)
    assert found is not None
    assert " ".join(found.words) == 'Anna left " Acme Inc . " for New York .'
    assert found.spans == (("company", 3, 5), ("city", 8, 10))
    assert EN[found.bounds[3][0] : found.bounds[4][1]] == "Acme Inc"


def test_most_texts_decide_whether_characters_are_words():
    """One foreign name more or less does not change how a corpus is cut; each character of a Chinese one is a word."""
    rows = [row(ZH, []), row(f"{ZH}iPhone7", [[7, 13, "x"]]), row("only English here", [])]
    assert unit_of(rows, COLUMNS) is Unit.CHARACTERS
    assert unit_of(rows[1:] + rows[2:], COLUMNS) is Unit.WORDS
    assert unit_of([row(["a"], [])], COLUMNS) is Unit.WORDS
    found = read(rows[1], COLUMNS, Unit.CHARACTERS)
    assert found is not None
    assert found.words == tuple(f"{ZH}iPhone7")
    assert found.spans == (("x", 7, 13),)
    apart = read(rows[1], COLUMNS, Unit.WORDS)
    assert apart is not None
    assert apart.spans == "span begins or ends inside a word"


def test_places_of_listed_words_count_words():
    given_row = row(["Anna", "left", "New", "York"], [{"start": 2, "end": 4, "type": "city"}])
    found = read(given_row, COLUMNS)
    assert found is not None
    assert (found.words, found.spans) == (("Anna", "left", "New", "York"), (("city", 2, 4),))


NAMES = ["Anna", "left", "New", "York", "now"]


@pytest.mark.parametrize("end", [4, 3])
def test_the_words_beside_a_span_decide_over_a_list_too(end: int):
    """Whether the end is the last word or the place behind it; and places of characters are no places of words."""
    item = {"start": 2, "end": end, "type": "city", "text": "New York"}
    found = read(row(NAMES, [item]), COLUMNS)
    assert found is not None
    assert found.spans == (("city", 2, 4),)
    assert read(row(["上", "海"], [{**item, "start": 0, "end": 2, "text": "上海"}]), COLUMNS) is not None
    with pytest.raises(DataError) as caught:
        read(row(NAMES, [{"start": 0, "end": 4, "label": "name", "text": "Anna"}]), COLUMNS)
    assert str(caught.value) == (
        "f.jsonl:3: span 0-4 of name must be 'Anna', but the text has 'Anna left New York' there. Places are read as words."
    )


@given(st.text("ab 好，.", max_size=12).map(lambda text: f"{text}字"), st.data())
def test_blanks_at_its_ends_are_no_part_of_a_span(text: str, data: st.DataObject):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    if not text[start:end].strip():
        with pytest.raises(DataError, match="must be 'a word'"):
            read(row(text, [[start, end, "x"]]), COLUMNS)
        return
    found = read(row(text, [[start, end, "x"]]), COLUMNS)
    assert found is not None
    assert found.words == tuple(text[one:other] for one, other in units(text, by_character=False))
    if isinstance(found.spans, str):
        assert found.spans == "span begins or ends inside a word"
        return
    assert found.spans is not None
    ((_, first, last),) = found.spans
    assert text[found.bounds[first][0] : found.bounds[last - 1][1]] == text[start:end].strip()


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ([[3, 9, "address"]], "span 3-9 of address must lie within the 7 characters of the text"),
        ([[3, 3, "address"]], "span 3-3 of address must lie within the 7 characters of the text and end behind"),
        ([[-2, 3, "address"]], "span -2-3 of address must lie"),
        ({"address": {"巴黎": [[3, 4]]}}, "span 3-4 of address must be '巴黎', but the text has '伦' there"),
        ([{"start": 0, "end": 2}], "a span must have a start, an end and a type, but has 0, 2 and None"),
        ([{"start": 0.5, "end": 2, "label": "x"}], "a span must have a start, an end and a type, but has 0.5"),
        ({"address": [[3, 4]]}, "spans of address must be given by their texts"),
        ({"address": {"伦敦": [3, 4]}}, "places of '伦敦' must be [first, last], but one is 3"),
        (["O", "O"], "a span must be an object or [start, end, type], but is 'O'"),
    ],
)  # fmt: skip
def test_a_span_that_is_none_is_one_error_with_file_and_line(label: Any, says: str):
    with pytest.raises(DataError) as caught:
        read(row(ZH, label), COLUMNS)
    assert str(caught.value).startswith("f.jsonl:3: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "columns"),
    [
        ({"text": ZH, "label": CLUENER, "id": 1}, ("text", "label")),
        ({"text": ZH, "entities": [], "label": "news"}, ("text", "entities")),
        ({"text": ZH, "tokens": [{"text": "大"}], "spans": []}, ("text", "spans")),
        ({"文本": ZH, "实体": []}, ("文本", "实体")),
        ({"tokens": list(ZH), "tags": ["O"] * 7, "entities": []}, ("tokens", "tags")),
        ({"words": ["a"], "entities": []}, ("words", "entities")),
    ],
)
def test_columns_are_found(values: dict[str, Any], columns: tuple[str, str]):
    assert tuple(find_columns([Row(values, "f:1")], {}, what="t").values()) == columns


# ------------------------------------------------------------------------------------------------ in the family
def fit(kit: Any, *rows: dict[str, Any], **options: Any) -> Any:
    return kit.fit("tagging", rows, **options)


BOTH = [
    {"text": ZH, "label": CLUENER},
    {"text": "她在 iPhone7 上读书", "label": {"book": {"iPhone7": [[3, 9]]}}},
    {"text": "没有名字", "label": {}},
]


@pytest.mark.parametrize("scheme", ["bio", "bioes", "iob1", "io"])
def test_spans_are_learnt_as_the_same_tags_by_hand(kit: Any, scheme: str):
    task = fit(kit, *BOTH, scheme=scheme)
    encoded = task.encode(kit.rows(BOTH), kit.words, Purpose.LEARN)
    assert task.unit is Unit.CHARACTERS
    by_hand = [{"tokens": list(one.target.words), "tags": list(one.gold)} for one in encoded]
    other = kit.fit("tagging", by_hand, scheme=scheme)
    assert other.labels == task.labels
    for one, same in zip(encoded, other.encode(kit.rows(by_hand), kit.words, Purpose.LEARN), strict=True):
        assert (one.tokens, one.gold) == (same.tokens, same.gold)
        assert (one.target.positions, one.target.labels) == (same.target.positions, same.target.labels)
    assert [list(spans(one.gold)) for one in encoded] == [
        [("name", 0, 2), ("address", 3, 5)],
        [("book", 2, 9)],
        [],
    ]


def test_a_row_without_a_mark_is_all_outside_and_one_without_the_column_has_no_gold(kit: Any):
    task = fit(kit, *BOTH)
    rows = [
        Row({"text": "没有", "label": {}}, "f:1"),
        Row({"text": "没有"}, "f:2"),
        Row({"label": {}}, "f:3"),
    ]
    empty, bare, textless = task.encode(rows, kit.words, Purpose.ANSWER)
    assert (empty.gold, bare.gold) == (("O", "O"), None)
    assert textless == Dropped("f:3", "no tokens")
    assert task.encode(rows[1:2], kit.words, Purpose.LEARN) == [Dropped("f:2", "no tags")]


def test_what_tags_cannot_say_is_dropped_and_counted(kit: Any):
    task = fit(kit, {"text": EN, "label": [[0, 4, "name"]]})
    rows = [
        Row({"text": EN, "label": [[0, 4, "name"], [3, 9, "name"]]}, "f:1"),
        Row({"text": "iPhone7", "label": [[0, 6, "name"]]}, "f:2"),
        Row({"text": EN, "label": [[0, 4, "odd"]]}, "f:3"),
    ]
    assert [one.reason for one in task.encode(rows, kit.words, Purpose.LEARN)] == [
        "spans lie over each other",
        "span begins or ends inside a word",
        "tag not in the list",
    ]


def test_a_wrong_span_in_any_split_is_an_error(kit: Any):
    bad = {"text": "短", "label": {"name": {"大卫": [[0, 1]]}}}
    with pytest.raises(DataError, match=r"^rows\.jsonl:4: span 0-1 of name"):
        fit(kit, *BOTH, bad)
    with pytest.raises(DataError, match=r"^rows\.jsonl:1: span 0-1 of name"):
        fit(kit, *BOTH).encode(kit.rows([bad]), kit.words, Purpose.ANSWER)


def test_answers_have_the_text_sign_for_sign(kit: Any):
    task = fit(kit, {"text": EN, "spans": [[11, 20, "company"], [26, 34, "city"]]})
    (encoded,) = task.encode(kit.rows([{"text": EN}]), kit.words, Purpose.ANSWER)
    again = FAMILIES["tagging"].from_config("t", json.loads(json.dumps(task.config())))
    assert again == task
    tags = ["O"] * len(encoded.target.words)
    tags[3:6] = ["B-company", "I-company", "I-company"]
    answer = again._answer(tags, encoded.target)
    assert [span["text"] for span in answer.spans] == ["Acme Inc."]


def test_plain_questions_are_parted_as_the_training_rows_were(kit: Any):
    task = fit(kit, *BOTH)
    asked = task.encode([task.ask("在U.S.读")], kit.words, Purpose.ANSWER)[0]
    assert isinstance(asked, Encoded)
    assert asked.target.words == tuple("在U.S.读")
    english = fit(kit, {"text": EN, "label": [[0, 4, "name"]]})
    asked = english.encode([english.ask("U.S. 读iPhone7")], kit.words, Purpose.ANSWER)[0]
    assert asked.target.words == ("U", ".", "S", ".", "读", "iPhone7")
    assert question(task.ask(ZH), task.inputs) == ZH


def test_plain_tags_cannot_mark_spans(kit: Any):
    with pytest.raises(DataError, match="scheme: must mark spans"):
        fit(kit, *BOTH, scheme="plain")
