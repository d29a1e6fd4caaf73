"""Options of how tasks answer, from a command line."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from weft.errors import DataError
from weft.evaluate.telling import told


@dataclass(frozen=True)
class Teller:
    name: str
    options: dict = field(default_factory=dict)
    kind = "teller"

    def told(self, options):
        return Teller(self.name, {**self.options, **options})


@dataclass(frozen=True)
class Plain:
    name: str
    kind = "plain"


TASKS = {"reply": Teller("reply", {"a": 1}), "mood": Plain("mood")}


def test_values_are_read_as_those_of_a_recipe_and_told_together():
    settings = [
        "reply.decoding.beams=4",
        "reply.decoding.stop=[。, '###']",
        "reply.execute=true",
        "reply.rate=1e-3",
    ]
    found = told(TASKS, settings)
    assert found["reply"].options == {
        "a": 1,
        "decoding": {"beams": 4, "stop": ["。", "###"]},
        "execute": "true",
        "rate": 1e-3,
    }
    assert found["mood"] is TASKS["mood"]
    assert told(TASKS, []) == TASKS


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("reply", "must be TASK.option=value"),
        ("reply=4", "must be TASK.option=value"),
        ("reply..x=4", "must be TASK.option=value"),
        ("replay.beams=4", "Did you mean 'reply'"),
        ("mood.beams=4", "but is a plain"),
    ],
)
def test_what_cannot_be_told_is_an_error(setting, words):
    with pytest.raises(DataError, match=words):
        told(TASKS, [setting])
