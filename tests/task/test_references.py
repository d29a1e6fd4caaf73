"""Right answers in every layout, and what becomes of a place that is wrong or missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from weft.core.example import Row
from weft.task.references import UNANSWERABLE, References, references

CONTEXT = "The Normans came from France. 北京，上海。 France is big, and café is e\u0301tude 👍🏽."
COLUMNS = {"answers": "answers", "answer_start": "answer_start", "impossible": "is_impossible"}


def read(answers: Any, **others: Any) -> Any:
    row = Row({"answers": answers, **others}, "a:1")
    columns = {role: column if column in row.values else None for role, column in COLUMNS.items()}
    return references(row, CONTEXT, {**columns, "answers": "answers"})


NORMANS = References(("Normans",), (4, 11))


@pytest.mark.parametrize(
    ("answers", "others"),
    [
        ({"text": ["Normans"], "answer_start": [4]}, {}),
        ({"text": ["Normans", "Normans"], "answer_start": [4, 4]}, {}),
        ({"text": np.array(["Normans"]), "answer_start": np.array([4], dtype=np.int32)}, {}),
        ({"text": "Normans", "answer_start": 4}, {}),
        ([{"text": "Normans", "answer_start": 4}], {}),
        ([{"text": "Normans"}], {}),
        (["Normans"], {}),
        (["Normans"], {"answer_start": [4]}),
        ("Normans", {"answer_start": 4}),
        ("Normans", {"answer_start": 4.0}),
        ("Normans", {"answer_start": "4"}),
        ("Normans", {}),
        ("  Normans ", {}),
        (" Normans", {"answer_start": 3}),  # the blank counts
        ('{"text": ["Normans"], "answer_start": [4]}', {}),  # a cell of CSV
        ('[{"text": "Normans", "answer_start": 4}]', {"is_impossible": "False"}),
        ({"text": ["Normans"], "answer_start": [7]}, {}),  # wrong, but it occurs once
        ({"text": ["Normans"], "answer_start": [-1]}, {}),
        ({"text": ["Normans"], "answer_start": [None]}, {"is_impossible": False}),
        ({"text": ["Normans"]}, {}),
    ],
)
def test_every_layout_says_the_same(answers: Any, others: dict[str, Any]):
    assert read(answers, **others) == NORMANS


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("北京", 30),
        ("上海", 33),
        ("café", 56),
        ("e\u0301tude", 64),
        ("👍🏽", 71),
        ("France", 22),
        ("France", 37),
    ],
)
def test_places_are_characters(text: str, start: int):
    assert CONTEXT[start : start + len(text)] == text
    assert read({"text": [text], "answer_start": [start]}) == References((text,), (start, start + len(text)))


@pytest.mark.parametrize(
    ("answers", "others"),
    [
        ({"text": [], "answer_start": []}, {}),
        ([], {}),
        ("", {}),
        ({}, {}),
        ({"text": [""], "answer_start": [0]}, {}),
        ("   ", {"answer_start": -1}),
        ([], {"is_impossible": True}),
        ({"text": ["Normans"], "answer_start": [4]}, {"is_impossible": True}),  # plausible, but wrong
        (None, {"is_impossible": "true"}),
        (None, {"is_impossible": 1}),
    ],
)
def test_no_answer_is_one_too(answers: Any, others: dict[str, Any]):
    assert read(answers, **others) == UNANSWERABLE


def test_a_row_that_says_nothing_is_another_thing():
    assert read(None) is None
    assert read(float("nan")) is None
    assert read(None, is_impossible=False) is None
    assert references(Row({}, "a:1"), CONTEXT, dict.fromkeys(COLUMNS) | {"answers": "answers"}) is None


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"text": ["Danes"], "answer_start": [4]}, "answer not in the context"),
        ("Danes", "answer not in the context"),
        ({"text": ["France"], "answer_start": [4]}, "answer not at its answer_start"),
        (["France"], "answer without answer_start found twice"),
        ({"text": ["étude"], "answer_start": [64]}, "answer not in the context"),  # another normal form
    ],
)
def test_what_cannot_be_found_for_sure_is_a_reason(answers: Any, reason: str):
    assert read(answers) == reason


def test_all_references_are_kept_and_the_first_with_a_place_is_learnt():
    found = read({"text": ["from the France", "France", " France"], "answer_start": [17, 22, 21]})
    assert found == References(("from the France", "France"), (22, 28))
    assert read([1998, "Normans"]).texts == ("1998", "Normans")
    assert read("[1]") == "answer not in the context", "JSON of something else is a text"


@pytest.mark.parametrize(
    "places",
    [
        {"text": ["is", "France", "France"], "start": [37, 31, 22], "end": [39, 37, 28]},
        [{"text": "France", "start": 31}, {"text": "France", "start": 22}],
        '{"text": ["France", "France"], "start": [31, 22]}',
        {"text": np.array(["France", "France"]), "start": np.array([31, 22])},
    ],
)
def test_the_first_of_several_places_of_a_text_is_learnt(places: Any):
    """ReCoRD: the places of all names of the passage stand beside the right ones."""
    assert CONTEXT.count("France") == 2
    found = read(["France", "Normans"], answer_start=places)
    assert found == References(("France", "Normans"), (22, 28))
    assert read(["France"]) == "answer without answer_start found twice"
    assert read(["Normans"], answer_start=places) == NORMANS, "it stands only once"
