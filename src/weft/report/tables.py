"""Numbers and parameter paths as people read them. Plain text, for pages and the command line alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from weft.report.records import GroupRow, Score

Pattern = tuple[tuple[str, ...], ...]
"""A set of paths: for each segment its alternatives."""


class ParamRowLike(Protocol):
    """What ``condense`` needs of a row of the parameter table."""

    @property
    def path(self) -> str:
        """Canonical path."""
        ...

    @property
    def size(self) -> int:
        """Number of values."""
        ...

    @property
    def role(self) -> str:
        """``frozen`` or ``trained``."""
        ...

    @property
    def owner(self) -> str:
        """Who brought it in."""
        ...

    @property
    def why(self) -> str:
        """The rule that decided."""
        ...

    @property
    def lr(self) -> float:
        """Peak learning rate, 0 for frozen rows."""
        ...


def condense(rows: Iterable[ParamRowLike]) -> tuple[GroupRow, ...]:
    """Return one line for all rows with the same owner, role, reason and rate, in order of first appearance."""
    groups: dict[tuple[str, str, str, float], list[ParamRowLike]] = {}
    for row in rows:
        groups.setdefault((row.owner, str(row.role), row.why, row.lr), []).append(row)
    return tuple(
        GroupRow(
            paths=condense_paths([row.path for row in members]),
            num_tensors=len(members),
            num_values=sum(row.size for row in members),
            role=role,
            owner=owner,
            why=why,
            lr=lr,
        )
        for (owner, role, why, lr), members in groups.items()
    )


def condense_paths(paths: Sequence[str]) -> str:
    """Return ``paths`` in one line; paths that differ in one segment are written together, numbers as ranges.

    Example:
        >>> condense_paths(["layers.0.ffn.up", "layers.0.ffn.down", "layers.1.ffn.up", "layers.1.ffn.down"])
        'layers.{0-1}.ffn.{up,down}'
    """
    patterns: list[Pattern] = [tuple((part,) for part in path.split(".")) for path in paths]
    num_before = 0
    while len(patterns) != num_before:
        num_before = len(patterns)
        longest = max((len(pattern) for pattern in patterns), default=0)
        for position in reversed(range(longest)):
            patterns = _merge(patterns, position)
    return ", ".join(".".join(map(_alternatives, pattern)) for pattern in patterns)


def _merge(patterns: Sequence[Pattern], position: int) -> list[Pattern]:
    """Return ``patterns`` with those that differ at ``position`` only written as one."""
    merged: dict[tuple[object, ...], Pattern] = {}
    for pattern in patterns:
        if position >= len(pattern):
            merged[pattern] = pattern
            continue
        key = (*pattern[:position], position, *pattern[position + 1 :])
        known = merged.get(key, pattern)
        both = tuple(dict.fromkeys((*known[position], *pattern[position])))
        merged[key] = (*pattern[:position], both, *pattern[position + 1 :])
    return list(merged.values())


def _alternatives(parts: tuple[str, ...]) -> str:
    if len(parts) == 1:
        return parts[0]
    if all(part.isdecimal() for part in parts):
        return "{" + ",".join(_ranges(sorted(map(int, parts)))) + "}"
    return "{" + ",".join(parts) + "}"


def _ranges(numbers: Sequence[int]) -> list[str]:
    """Return ascending ``numbers`` as ``0-3``, ``5``."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return [str(first) if first == last else f"{first}-{last}" for first, last in spans]


def whole(number: int) -> str:
    """Return ``12,345``."""
    return f"{number:,}"


def short(number: float) -> str:
    """Return a count with three digits and a unit: ``987``, ``12.3 k``, ``4.56 M``, ``7.00 B``."""
    for scale, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= scale * 0.9995:
            return f"{_three(number / scale)} {unit}"
    return f"{number:.0f}" if number == int(number) else _three(number)


def _three(number: float) -> str:
    """Return three significant digits of a number below 1000."""
    if number == 0 or not math.isfinite(number):
        return f"{number:.0f}"
    digits = 2 - math.floor(math.log10(abs(float(f"{number:.3g}"))))
    return f"{number:.{max(0, digits)}f}"


def duration(seconds: float) -> str:
    """Return ``85 ms``, ``12.4 s``, ``3 min 41 s``, ``1 h 04 min`` or ``2 d 03 h``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours:02d} h"


def memory(num_bytes: float) -> str:
    """Return ``512 B``, ``3.4 MiB``, ``1.2 GiB``."""
    value, unit = float(num_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1023.95:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def percent(share: float) -> str:
    """Return ``100 %``, ``12.3 %``, ``0.84 %``; anything that is not zero does not read as zero."""
    value = share * 100
    if 0 < value < 0.01:
        return "<0.01 %"
    if value in (0, 100):
        return f"{value:.0f} %"
    return f"{value:.2f} %" if abs(value) < 1 else f"{value:.1f} %"


def rate(lr: float) -> str:
    """Return a learning rate as people write it: ``2e-4``, ``1.5e-5``; a dash for frozen rows."""
    if lr == 0:
        return "–"
    mantissa, exponent = f"{lr:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def plain(value: float) -> str:
    """Return a number with three significant digits, without an exponent where it is of human size."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return _three(value) if value else "0"
    return short(value) if abs(value) >= 1e3 else f"{value:.1e}"


def is_share(best: float, *, higher_is_better: bool) -> bool:
    """Return whether a metric with these ends is shown in hundredths (accuracy, F1, a correlation)."""
    return best == 1.0 and higher_is_better


def number(value: float, *, hundredths: bool) -> str:
    """Return a metric's value: ``86.4`` in hundredths, else three significant digits."""
    if hundredths and math.isfinite(value):
        text = f"{value * 100:.1f}"
        return "0.0" if text == "-0.0" else text
    return plain(value)


def score_value(score: Score) -> str:
    """Return the value of ``score`` as shown."""
    return number(score.value, hundredths=is_share(score.best, higher_is_better=score.higher_is_better))


def interval(value: float, low: float, high: float, *, hundredths: bool) -> str:
    """Return ``86.4 [85.1, 87.6]``."""
    texts = [number(one, hundredths=hundredths) for one in (value, low, high)]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def score_interval(score: Score) -> str:
    """Return ``86.4 [85.1, 87.6]`` for a score."""
    hundredths = is_share(score.best, higher_is_better=score.higher_is_better)
    return interval(score.value, score.low, score.high, hundredths=hundredths)


def standing(score: Score) -> str:
    """Return ``above``, ``level`` or ``below``: where the whole interval lies, as seen from the baseline.

    ``above`` is the good side, also for metrics where lower is better.
    """
    if score.low <= score.baseline <= score.high or not math.isfinite(score.value):
        return "level"
    return "above" if (score.low > score.baseline) == score.higher_is_better else "below"
