"""The metrics of generated text by the names that recipes use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from weft.errors import nearest
from weft.metric.base import Metric
from weft.metric.numeric import numeric_match
from weft.metric.passing import pass_at
from weft.metric.rouge import rouge_l, rouge_n
from weft.metric.text import exact_match, token_f1
from weft.metric.translation import bleu, chrf

PASS = "pass@"
_MOST = 1000  # programs a row

NAMED: Mapping[str, Callable[[], Metric]] = MappingProxyType(
    {
        "exact_match": exact_match,
        "token_f1": token_f1,
        "bleu": bleu,
        "chrf": chrf,
        "rouge1": partial(rouge_n, 1),
        "rouge2": partial(rouge_n, 2),
        "rougeL": rouge_l,
        "numeric_match": numeric_match,
    }
)


def check_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Return ``names`` unchanged if each is a metric of generated text, and none comes twice.

    Raises:
        ValueError: one is none, or comes twice.
    """
    for name in names:
        if name not in NAMED and not 1 <= programs(name) <= _MOST:
            raise ValueError(
                f"must be metrics of text, but {name!r} is none. {nearest(name, [*NAMED, f'{PASS}1'])}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"must name each metric once, but are {', '.join(names)}")
    return tuple(names)


def programs(name: str) -> int:
    """Return k of ``pass@k``, 0 for other metrics.

    Example:
        >>> programs("pass@10"), programs("bleu")
        (10, 0)
    """
    number = name.removeprefix(PASS)
    return int(number) if name.startswith(PASS) and number.isascii() and number.isdigit() else 0


def metrics_of(names: Sequence[str]) -> tuple[Metric, ...]:
    """Return the metrics that ``check_metrics`` has passed, in their order."""
    return tuple(pass_at(programs(name)) if programs(name) else NAMED[name]() for name in names)
