"""How a task that generates answers: options and what goes together, several references, stop strings, programs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from weft.core.decoding import Decoding
from weft.core.example import Answer, Purpose
from weft.errors import DataError
from weft.metric.passing import NUM_PASSED, NUM_RUN
from weft.task.answering import (
    AnswerSpec,
    Prompt,
    Trial,
    code_in,
    decoding_of,
    generated,
    special_stops,
    tried,
)
from weft.task.base import Told
from weft.task.generation import Generation

ROWS = [{"instruction": "Say red", "output": "red"}]
CODED = [
    {
        "instruction": "add",
        "output": "def add(a, b):\n    return a + b",
        "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == zero"],
        "test_setup_code": "zero = 0",
    }
]
PASSING = {"metrics": "pass@1", "execute": True}


def answer_spec(**values) -> AnswerSpec:
    return AnswerSpec.model_validate(values)


@pytest.mark.parametrize(
    ("given", "heat"),
    [
        ({}, 0.0),
        ({"temperature": 0.3}, 0.3),
        ({"top_k": 5}, 1.0),
        ({"top_p": 0.9}, 1.0),
        ({"top_p": 0.9, "temperature": 0.5}, 0.5),
    ],
)
def test_the_temperature_follows_from_what_bounds_it(given, heat):
    assert answer_spec(decoding=given).decoding.heat == heat


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"decoding": {"top_k": 5, "temperature": 0}}, "temperature is 0"),
        ({"decoding": {"beams": 2, "temperature": 1}}, "Set one of both"),
        ({"decoding": {"length_penalty": 2}}, "there is one beam"),
        ({"decoding": {"stop": [""]}}, "not empty"),
        ({"decoding": {"samples": 3, "temperature": 1}}, "metrics have none"),
        ({"decoding": {"samples": 3, "temperature": 1}, "metrics": ["pass@5"]}, "must be 5 at least"),
        ({"metrics": ["pass@5"]}, "5 answers a row must be drawn"),
        ({"metrics": ["blue"]}, "Did you mean 'bleu'"),
        ({"decoding": {"beam": 2}}, "Extra inputs"),
    ],
)
def test_what_does_not_go_together_is_refused(given, words):
    with pytest.raises(ValidationError, match=words):
        answer_spec(**given)


def test_code_is_run_only_where_the_recipe_says_so(kit):
    with pytest.raises(ValidationError, match="execute: true must allow"):
        kit.fit("generation", CODED, metrics=["pass@1"])
    with pytest.raises(ValidationError, match="metrics have none"):
        kit.fit("generation", CODED, execute=True)
    with pytest.raises(DataError, match="pass@k needs a column of tests"):
        kit.fit("generation", ROWS, **PASSING)
    task = kit.fit("generation", CODED, **PASSING)
    assert task.answering.execute
    saved = task.config()
    assert "execute" not in saved["answering"]
    for config in (saved, {**saved, "answering": {**saved["answering"], "execute": True}}):
        again = Generation.from_config("t", config)
        assert not again.answering.execute
        assert [metric.name for metric in again.metrics] == ["pass@1"]
        assert again.told({"execute": True}) == task


def test_a_task_is_the_same_from_its_config(kit):
    options = {"decoding": {"beams": 3, "stop": ["。", "###"]}, "metrics": ["rougeL", "bleu"]}
    task = kit.fit("generation", ROWS, **options)
    assert Generation.from_config("t", task.config()) == task
    older = {key: value for key, value in task.config().items() if key != "answering"}
    assert Generation.from_config("t", older).answering == AnswerSpec()


def test_decoding_says_all_that_the_recipe_says(kit):
    own = {
        "top_k": 7,
        "top_p": 0.5,
        "repetition_penalty": 1.5,
        "no_repeat_ngram": 3,
        "stop": ["x"],
        "seed": 4,
    }
    prompt = Prompt(2, kit.story.decode, more_stops=(2, 9))
    how = decoding_of(answer_spec(decoding=own), prompt, 5)
    assert how.stops is not None
    assert how.stops.strings == ("x",)
    expected = Decoding(max_new_tokens=5, stop_tokens=(2, 9), temperature=1.0, top_k=7, top_p=0.5)
    expected = replace(expected, repetition_penalty=1.5, no_repeat_ngram=3, seed=4)
    assert replace(how, stops=None) == expected
    searched = decoding_of(answer_spec(decoding={"beams": 4, "length_penalty": -1}), prompt, 5)
    assert (searched.beams, searched.length_penalty, searched.stops) == (4, -1, None)


class Marked:
    """A tokenizer with one special token."""

    def plain(self, texts):
        return [(7,) if text == "<|end|>" else (1, 2) if len(text) > 1 else (3,) for text in texts]

    def decode(self, tokens):
        return "".join("" if token == 7 else "a" for token in tokens)


def test_a_stop_string_that_is_a_special_token_is_that_token():
    assert special_stops(["<|end|>", "##", "x"], Marked()) == (7,)
    assert special_stops([], Marked()) == ()


class Speaker:
    """A network that says the same to everybody, and notes how it was asked."""

    def __init__(self, texts, tokenizer) -> None:
        self.texts, self.tokenizer, self.asked = list(texts), tokenizer, []

    def generate(self, task, prompts, how, *, heard=None):
        self.asked.append(how)
        said = self.tokenizer.plain([self.texts[(len(self.asked) - 1) % len(self.texts)]])[0]
        return [list(said) for _ in prompts]


def test_answers_are_cut_at_stop_strings(kit):
    for text, stop, expected in (
        ("red. Blue", ".", "red"),
        ("好的。再见", "。", "好的"),
        ("no end", "#", "no end"),
    ):
        task = kit.fit("generation", ROWS, decoding={"stop": [stop]})
        asked = task.encode(kit.rows(ROWS), kit.story, Purpose.ANSWER)
        speaker = Speaker([text], kit.story)
        found = generated(speaker, "t", asked, task.answering, max_new_tokens=9)
        assert found == [Answer(text=expected)]
        assert speaker.asked[0].stops.strings == (stop,)
    assert generated(speaker, "t", [], task.answering, max_new_tokens=9) == []


def test_several_references_are_the_gold(kit):
    rows = [
        {"instruction": "a", "output": "x", "references": ["one ", "two", "one"]},
        {"instruction": "b", "output": "y", "references": []},
        {"instruction": "c", "output": "z", "references": "only"},
    ]
    task = kit.fit("generation", rows, metrics="exact_match")
    for purpose in Purpose:
        assert [one.gold for one in task.encode(kit.rows(rows), kit.story, purpose)] == [
            ("one", "two"),
            "y",
            "only",
        ]
    assert "references" not in task.inputs
    assert task.baseline([("one", "two"), ("one", "two"), "y"], 1) == [Answer(text="one")]
    named = kit.fit("generation", [{**rows[0], "mine": "m"}], columns={"references": "mine"})
    assert named.encode(kit.rows([{**rows[0], "mine": "m"}]), kit.story, Purpose.ANSWER)[0].gold == "m"


def test_programs_are_tried_with_their_tests(kit):
    good, bad = "def add(a, b):\n    return a + b", "def add(a, b):\n    return a - b"
    trial = Trial("zero = 0", ("assert add(1, 2) == 3", "assert add(0, 0) == zero"))
    fenced = f"Sure:\n```python\n{good}\n```"
    answers = tried([[good, bad, "?"], [fenced, "import sys; sys.exit(0)", good]], [trial, trial, None])
    assert [answer.extra for answer in answers] == [
        {NUM_RUN: 2, NUM_PASSED: 2},
        {NUM_RUN: 2, NUM_PASSED: 0},
        {NUM_RUN: 2, NUM_PASSED: 0},
    ]
    assert [answer.text for answer in answers] == [good, bad, "?"]


def test_a_task_that_may_execute_draws_as_often_as_its_metric_needs(kit):
    rows = CODED
    task = kit.fit(
        "generation", rows, metrics=["pass@1", "pass@2"], execute=True, decoding={"temperature": 0.5}
    )
    (asked,) = task.encode(kit.rows(rows), kit.story, Purpose.ANSWER)
    assert asked.target.trial.program("pass").splitlines()[0] == "zero = 0"
    speaker = Speaker(["zero = 1", "add = max"], kit.story)
    (answer,) = generated(speaker, "t", [asked], task.answering, max_new_tokens=9)
    assert answer == Answer(text="zero = 1", extra={NUM_RUN: 2, NUM_PASSED: 0})
    assert len({how.seed for how in speaker.asked}) == 2
    assert speaker.asked[0].seed == 0
    one, two = task.metrics
    solved = Answer(text="", extra={NUM_RUN: 2, NUM_PASSED: 1})
    assert (one.value(["x"], [solved]), two.value(["x"], [solved])) == (0.5, 1.0)
    assert one.value(["x"], task.baseline(["x"], 1)) == 0.0


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("a\n```py\nx\ny\n```\n```\nz\n```", "x\ny"),
        ("```python\nx = 1", "x = 1"),
    ],
)
def test_code_is_taken_out_of_its_fence(text, code):
    assert code_in(text) == code


def test_a_task_can_be_told_to_answer_otherwise(kit):
    task = kit.fit("generation", ROWS, decoding={"beams": 3, "stop": ["x"]}, max_new_tokens=9)
    assert isinstance(task, Told)
    assert task.options == {"decoding": {"beams": 3, "stop": ["x"]}, "max_new_tokens": 9}
    told = task.told({"decoding": {"beams": 1, "temperature": 0.7}, "max_new_tokens": 4})
    assert told.answering.decoding.model_dump(exclude_defaults=True) == {"temperature": 0.7, "stop": ("x",)}
    assert told.max_new_tokens == 4
    assert task.told({}) == task
    for options, words in (
        ({"decoding": {"beem": 2}}, r"t\.decoding\.beem: .*Did you mean 'beams'"),
        ({"template": "x"}, r"t\.template: must be an option"),
        ({"decoding": {"temperature": 1}}, "Set one of both"),
        ({"max_new_tokens": 0}, r"t\.max_new_tokens: "),
        ({"metrics": "pass@1"}, "needs a column of tests"),
    ):
        with pytest.raises(DataError, match=words):
            task.told(options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"decoding": {"beams": "x"}},
            r"t\.decoding\.beams: input should be a valid integer.*, but is 'x'\.$",
        ),
        ({"metrics": "nosuch"}, r"t\.metrics: must be metrics of text, but 'nosuch' is none\..*[^.]\.$"),
    ],
)
def test_what_a_task_cannot_be_told_says_what_is_and_ends_once(kit, options, words):
    with pytest.raises(DataError, match=words):
        kit.fit("generation", ROWS).told(options)
