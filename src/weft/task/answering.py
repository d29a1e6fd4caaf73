"""How a task that generates text answers, and by what its answers are judged: options, columns, decoding, programs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from weft.core.decoding import Decoding, Stops
from weft.core.example import Answer, Encoded, Row
from weft.core.network import Network
from weft.core.seeds import fold
from weft.data.columns import Role, resolve
from weft.errors import DataError, nearest
from weft.metric.base import Metric
from weft.metric.execution import run_programs
from weft.metric.named import check_metrics, metrics_of, programs
from weft.metric.passing import NUM_PASSED, NUM_RUN
from weft.metric.text import references, text_metrics
from weft.recipe.spec import Sources, Spec
from weft.task.base import Tokenizer
from weft.task.labels import plain
from weft.task.speech import Listener, Speech, whole
from weft.task.toolcalls import parse_calls

REFERENCES, TESTS, TEST_SETUP = "references", "tests", "test_setup"
JUDGING: Final = {
    REFERENCES: ("references", "refs", "参考答案"),
    TESTS: ("tests", "test_list"),
    TEST_SETUP: ("test_setup", "test_setup_code", "test_imports"),
}
"""Roles of columns that answers are judged by, with the names they are looked for under."""

Columns = Mapping[str, str | None]
_FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


class DecodingSpec(Spec):
    """How answers are decoded; by default the likeliest token each time."""

    beams: int = Field(default=1, ge=1, le=64)
    """Hypotheses that are searched side by side."""
    length_penalty: float = Field(default=1.0, ge=-10, le=10)
    """Of beams: above 0 prefers long answers, below 0 short ones."""
    temperature: float | None = Field(default=None, ge=0, le=100)
    """Above 0, tokens are drawn: 1 as the model has it, lower bolder. Default: 1 beside top_k or top_p, else 0."""
    top_k: int = Field(default=0, ge=0)
    """Draw from so many likeliest tokens only; 0 for all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the fewest likeliest tokens that have this probability together."""
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)
    """Above 1, tokens that the prompt or the answer has become less likely."""
    no_repeat_ngram: int = Field(default=0, ge=0, le=100)
    """No run of so many tokens comes twice; 0 for no limit."""
    stop: Sources = ()
    """Strings that end an answer and are no part of it."""
    samples: int | None = Field(default=None, ge=1, le=1000)
    """Answers drawn for each row that pass@k counts; default: the largest k."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the draws: each row's own follow from this and its prompt."""

    @property
    def heat(self) -> float:
        """The temperature, derived where it is not given."""
        if self.temperature is None:
            return 1.0 if self.top_k or self.top_p < 1 else 0.0
        return self.temperature

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if not self.heat and (self.top_k or self.top_p < 1):
            raise ValueError(
                "top_k and top_p bound what is drawn, but temperature is 0. Leave it out, or raise it"
            )
        if self.heat and self.beams > 1:
            raise ValueError(
                f"beams follow the likeliest tokens, but temperature is {self.heat:g}. Set one of both"
            )
        if self.length_penalty != 1 and self.beams == 1:
            raise ValueError("length_penalty weighs beams, but there is one beam. Set beams, or leave it out")
        if not all(self.stop):
            raise ValueError("stop must be strings that are not empty, but one is")
        return self


class AnswerSpec(Spec):
    """How a task answers and by what it is judged."""

    decoding: DecodingSpec = DecodingSpec()
    """How answers are decoded: beams, temperature, top_k, top_p, stop, ..."""
    metrics: Annotated[Sources, AfterValidator(check_metrics)] = ()
    """What answers are judged by: exact_match, token_f1, bleu, chrf, rouge1, rouge2, rougeL, numeric_match, pass@k.

    The first one chooses the checkpoint. Default: exact_match and token_f1, and the loss on dev rows chooses.
    """
    execute: bool = False
    """Run generated code, confined, against the tests of its row, for pass@k."""

    @property
    def num_programs(self) -> int:
        """Programs a row that pass@k needs, 0 where it is not asked for."""
        most = max(map(programs, self.metrics), default=0)
        return max(most, self.decoding.samples or 0) if most else 0

    @model_validator(mode="after")
    def _has_programs(self) -> Self:
        samples, most = self.decoding.samples, max(map(programs, self.metrics), default=0)
        if samples is not None and not most:
            raise ValueError(
                "decoding.samples are counted by pass@k, but metrics have none. Leave samples out"
            )
        if samples is not None and samples < most:
            raise ValueError(f"decoding.samples must be {most} at least for pass@{most}, but are {samples}")
        if self.num_programs > 1 and not self.decoding.heat:
            raise ValueError(
                f"{self.num_programs} answers a row must be drawn, but would all be the likeliest. Set decoding.temperature"
            )
        return self

    def check_execute(self) -> None:
        """Raise a ValueError unless code is run exactly where something asks for it."""
        has_programs = self.num_programs > 0
        if has_programs and not self.execute:
            raise ValueError(
                "pass@k runs generated code on this machine, which execute: true must allow, but it is not set"
            )
        if self.execute and not has_programs:
            raise ValueError("execute runs programs for pass@k, but metrics have none. Leave execute out")

    @property
    def judged_by(self) -> tuple[Metric, ...]:
        """The metrics."""
        return metrics_of(self.metrics) if self.metrics else text_metrics()


PLAIN = AnswerSpec()
"""The likeliest token each time, and metrics that choose nothing."""


class AnswerOptions(AnswerSpec):
    """All that can be changed of how a task answers once it has learnt."""

    max_new_tokens: int = Field(default=128, ge=1, le=100_000)
    """Longest answer, in tokens; prompts are cut so that it has room, up to half of the model's max_tokens."""

    def changed(self, options: Mapping[str, Any], *, task: str) -> Self:
        """Return these options with ``options`` in the place of some, nested ones one by one.

        Raises:
            DataError: an option that there is not, or a value that it cannot have.
        """
        try:
            return type(self).model_validate(
                _merged(self.model_dump(mode="json", exclude_defaults=True), options)
            )
        except ValidationError as error:
            first = error.errors()[0]
            keys = [task, *map(str, first["loc"])]
            place = ".".join(keys)
            if first["type"] != "extra_forbidden":
                said = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
                given = "" if ", but " in said else f", but is {first['input']!r}"
                raise DataError(f"{place}: {said[:1].lower()}{said[1:]}{given}.") from None
            known = DecodingSpec.model_fields if len(keys) > 2 else type(self).model_fields
            raise DataError(
                f"{place}: must be an option of how {task} answers, but is not. {nearest(keys[-1], known)}"
            ) from None


@dataclass(frozen=True, slots=True)
class Trial:
    """What a program is tried with."""

    setup: str
    tests: tuple[str, ...]

    def program(self, code: str) -> str:
        """Return ``code`` between what it needs and its tests."""
        return "\n".join([self.setup, code, *self.tests])


@dataclass(frozen=True, slots=True)
class Prompt:
    """The target of a row to answer: how to end, how to read what is generated, what to try it with, how to begin."""

    stop: int
    decode: Callable[[Sequence[int]], str]
    more_stops: tuple[int, ...] = ()
    trial: Trial | None = None
    first: int | None = None


def judging_columns(
    name: str, given: Mapping[str, str], rows: Sequence[Row], *, taken: Columns
) -> dict[str, str | None]:
    """Return the columns that answers are judged by, other than those ``taken``."""
    free = [
        Row({key: value for key, value in row.values.items() if key not in taken.values()}, row.where)
        for row in rows
    ]
    roles = [Role(role, names, required=False) for role, names in JUDGING.items()]
    return resolve(free, roles, given, what=f"tasks.{name}")


def split_given(given: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the columns given for questions and answers, and those given for judging."""
    asking = {role: column for role, column in given.items() if role not in JUDGING}
    return asking, {role: column for role, column in given.items() if role in JUDGING}


def gold_of(row: Row, columns: Columns, answer: str | None) -> str | tuple[str, ...] | None:
    """Return the right answers of a row: its references where it has some, else its answer."""
    given = tuple(
        dict.fromkeys(text.strip() for text in _texts(row, columns.get(REFERENCES)) if text.strip())
    )
    if not given:
        return answer
    return given if len(given) > 1 else next(iter(given))


def prompt_of(row: Row, columns: Columns, spec: AnswerSpec, tokenizer: Tokenizer) -> Prompt:
    """Return the target of a row to answer."""
    tests = tuple(_texts(row, columns.get(TESTS)))
    trial = Trial("\n".join(_texts(row, columns.get(TEST_SETUP))), tests) if tests else None
    return Prompt(tokenizer.stop, tokenizer.decode, special_stops(spec.decoding.stop, tokenizer), trial)


def special_stops(strings: Sequence[str], tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the tokens of those ``strings`` that are one special token each: no text ever shows them."""
    ids = tokenizer.plain(strings) if strings else []
    return tuple(next(iter(found)) for found in ids if len(found) == 1 and not tokenizer.decode(found))


def decoding_of(spec: AnswerSpec, prompt: Prompt, max_new_tokens: int) -> Decoding:
    """Return how to decode answers to prompts such as ``prompt``."""
    own = spec.decoding
    return Decoding(
        max_new_tokens=max_new_tokens,
        stop_tokens=(prompt.stop, *(stop for stop in prompt.more_stops if stop != prompt.stop)),
        beams=own.beams,
        length_penalty=own.length_penalty,
        temperature=own.heat,
        top_k=own.top_k,
        top_p=own.top_p,
        repetition_penalty=own.repetition_penalty,
        no_repeat_ngram=own.no_repeat_ngram,
        stops=Stops(own.stop, prompt.decode) if own.stop else None,
        seed=own.seed,
        first=prompt.first,
    )


def generated(
    network: Network, name: str, encoded: Sequence[Encoded], spec: AnswerSpec, *, max_new_tokens: int
) -> list[Answer]:
    """Return what the network generates for rows whose targets are ``Prompt``s, with their programs tried if that is allowed.

    Args:
        network: that has the task.
        name: of the task.
        encoded: its rows to answer.
        spec: decoding and metrics.
        max_new_tokens: of each answer.
    """
    if not encoded:
        return []
    prompts = [example.tokens for example in encoded]
    how = decoding_of(spec, encoded[0].target, max_new_tokens)

    def texts(sample: int) -> list[str]:
        own = how if not sample else replace(how, seed=fold(how.seed, "sample", sample))
        return [
            read(tokens, own, encoded[0].target.decode) for tokens in network.generate(name, prompts, own)
        ]

    if not spec.execute:
        return [answer_of(text) for text in texts(0)]
    samples = [texts(sample) for sample in range(spec.num_programs)]
    return tried(samples, [example.target.trial for example in encoded])


def spoken(
    network: Network, name: str, asked: Encoded, spec: AnswerSpec, *, max_new_tokens: int, heard: Listener
) -> Answer:
    """Return what the network generates for one row, told while it is: piece by piece, with beams at the end."""
    how = decoding_of(spec, asked.target, max_new_tokens)
    speech = Speech(asked.target.decode, how, heard)
    found = network.generate(name, [asked.tokens], how, heard=speech if how.beams == 1 else None)
    text = read(found[0], how, asked.target.decode)
    speech.finish(text)
    return answer_of(text)


def answer_of(text: str) -> Answer:
    """Return generated text as an answer, with the calls of tools that it holds."""
    calls = parse_calls(text)
    return Answer(text=text, extra={"tool_calls": calls} if calls else {})


def read(tokens: Sequence[int], how: Decoding, decode: Callable[[Sequence[int]], str]) -> str:
    """Return generated ``tokens`` as text, up to a stop string."""
    text = whole(tokens, decode)
    return (how.stops.cut(text) if how.stops is not None else text).strip()


def tried(samples: Sequence[Sequence[str]], trials: Sequence[Trial | None]) -> list[Answer]:
    """Return the first sample of each row, and how many of its samples pass.

    Args:
        samples: texts by sample, then by row.
        trials: of each row; a row without one has no programs that could pass.
    """
    numbers = [row for row, trial in enumerate(trials) if trial is not None]
    sources = [trials[row].program(code_in(texts[row])) for row in numbers for texts in samples]  # pyright: ignore[reportOptionalMemberAccess]
    outcomes = iter(run_programs(sources))
    passed = dict.fromkeys(range(len(trials)), 0)
    for row in numbers:
        passed[row] = sum(next(outcomes).passed for _ in samples)
    return [
        Answer(text=text, extra={NUM_RUN: len(samples), NUM_PASSED: passed[row]})
        for row, text in enumerate(samples[0])
    ]


def code_in(text: str) -> str:
    r"""Return the first fenced block of ``text``, all of it where there is none.

    Example:
        >>> code_in("Like this:\n```python\nx = 1\n```\nDone.")
        'x = 1'
    """
    found = _FENCED.search(text)
    return found[1] if found else text


def baseline_answer(gold: Any, spec: AnswerSpec) -> Answer:
    """Return ``gold`` as an answer; no program of another row is taken to pass."""
    count = spec.num_programs
    text, *_ = references(gold)
    return Answer(text=text, extra={NUM_RUN: count, NUM_PASSED: 0} if count else {})


def check_judging(name: str, columns: Columns, spec: AnswerSpec) -> None:
    """Hold the metrics against the columns that there are.

    Raises:
        DataError: pass@k without tests.
    """
    if spec.num_programs and columns[TESTS] is None:
        raise DataError(
            f"tasks.{name}: pass@k needs a column of tests, but there is none. Say which with columns: "
            f"{{tests: <column>}}; known names are {', '.join(JUDGING[TESTS])}."
        )


def _merged(own: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(own[key], value)
        for key, value in other.items()
        if isinstance(value, Mapping) and key in own
    }
    return {**own, **other, **both}


def _texts(row: Row, column: str | None) -> list[str]:
    """Return the texts in a column: a list of them, or one."""
    value = plain(row.values.get(column)) if column is not None else None
    values = value if isinstance(value, list | tuple) else [value]
    return [str(one) for one in values if one is not None and str(one).strip()]
