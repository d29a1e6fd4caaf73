"""How far a stage is, and the arithmetic of durations on it. Whatever is counted here is enough to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from decimal import Decimal
from typing import Any

from weft.errors import CheckpointError
from weft.recipe.duration import Duration, Unit


@dataclass(frozen=True, slots=True)
class Progress:
    """Everything a stage needs to go on where it stopped, next to weights and optimizer state.

    Attributes:
        epoch: finished epochs.
        step_in_epoch: finished steps of the current epoch: the position in its order.
        step: finished steps of the stage, skipped ones included.
        examples: examples drawn by task.
        tokens: real tokens through the trunk.
        padded_tokens: the same with padding.
        seconds: spent in steps; evaluating and saving not counted.
        skipped: steps that were not applied because loss or gradient were not finite.
        skipped_in_row: of these, the ones just before now.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    examples: Mapping[str, int] = field(default_factory=dict[str, int])
    tokens: int = 0
    padded_tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_row: int = 0

    @property
    def num_examples(self) -> int:
        """Examples drawn of all tasks."""
        return sum(self.examples.values())

    def settled(self, *, skipped: bool) -> Progress:
        """Return this progress with the outcome of its last step counted."""
        if not skipped:
            return replace(self, skipped_in_row=0) if self.skipped_in_row else self
        return replace(self, skipped=self.skipped + 1, skipped_in_row=self.skipped_in_row + 1)

    def counted(
        self, drawn: Mapping[str, int], *, tokens: int, padded_tokens: int, steps_per_epoch: int
    ) -> Progress:
        """Return this progress one step further, its seconds and its outcome not counted yet."""
        ends = self.step_in_epoch + 1 == steps_per_epoch
        examples = dict(self.examples)
        for name, count in drawn.items():
            examples[name] = examples.get(name, 0) + count
        return replace(
            self,
            epoch=self.epoch + ends,
            step_in_epoch=0 if ends else self.step_in_epoch + 1,
            step=self.step + 1,
            examples=examples,
            tokens=self.tokens + tokens,
            padded_tokens=self.padded_tokens + padded_tokens,
        )

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {**asdict(self), "examples": dict(self.examples)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Progress:
        """Return the progress that ``to_json`` wrote.

        Raises:
            CheckpointError: a field is missing or unknown, so the file is of another version of Weft.
        """
        _check_fields(cls, values)
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Best:
    """The best evaluation so far, for the choice of what a stage hands on and for early stopping.

    Attributes:
        score: its selection score; None before the first evaluation.
        step: where it was taken.
        evaluations: all so far.
        since: evaluations after the best one.
    """

    score: float | None = None
    step: int | None = None
    evaluations: int = 0
    since: int = 0

    def seen(self, score: float, *, step: int) -> Best:
        """Return the best after one more evaluation; an equal score is no better, the earlier one stays."""
        if self.score is None or score > self.score:
            return Best(score, step, self.evaluations + 1)
        return replace(self, evaluations=self.evaluations + 1, since=self.since + 1)

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Best:
        """Return what ``to_json`` wrote.

        Raises:
            CheckpointError: a field is missing or unknown, so the file is of another version of Weft.
        """
        _check_fields(cls, values)
        return cls(**values)


def _check_fields(cls: type[Progress] | type[Best], values: Mapping[str, Any]) -> None:
    known = {one.name for one in fields(cls)}
    if odd := sorted(known ^ set(values)):
        raise CheckpointError(
            f"{cls.__name__.lower()}: must have the fields of this version of Weft, but these are missing or unknown: "
            f"{', '.join(odd)}. Resume with the version that wrote it."
        )


def fraction_done(duration: Duration, progress: Progress, *, epoch_size: int) -> float:
    """Return which share of ``duration`` is done; 1 or more when it is over.

    Args:
        duration: of the stage.
        progress: so far.
        epoch_size: examples in an epoch.
    """
    done, whole = _share(duration, progress, epoch_size)
    return done / whole


def is_over(duration: Duration, progress: Progress, *, epoch_size: int) -> bool:
    """Return whether ``duration`` is done; exact, so that "3 epochs" ends with the last example of the third."""
    done, whole = _share(duration, progress, epoch_size)
    return done >= whole


def due(every: Duration, before: Progress, after: Progress, *, epoch_size: int) -> bool:
    """Return whether a multiple of ``every`` was reached between ``before`` (exclusive) and ``after`` (inclusive)."""
    first, last = (_share(every, progress, epoch_size) for progress in (before, after))
    return last[0] // last[1] > first[0] // first[1]


def _share(duration: Duration, progress: Progress, epoch_size: int) -> tuple[int, int]:
    """Return numerator and denominator of the share of ``duration`` that is done: exact, and without a Fraction's cost."""
    done, of = _amount(duration.unit, progress, epoch_size)
    amount, part = Decimal(str(duration.amount)).as_integer_ratio()
    return done * part, of * amount


def _amount(unit: Unit, progress: Progress, epoch_size: int) -> tuple[int, int]:
    """Return numerator and denominator of what ``unit`` counts."""
    match unit:
        case Unit.EPOCHS:
            return progress.num_examples, epoch_size
        case Unit.STEPS:
            return progress.step, 1
        case Unit.EXAMPLES:
            return progress.num_examples, 1
        case Unit.TOKENS:
            return progress.tokens, 1
        case Unit.MINUTES:
            seconds, part = progress.seconds.as_integer_ratio()
            return seconds, part * 60
