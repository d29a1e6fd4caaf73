"""Putting rows to tasks: every task that can answer a row does, from one trunk pass a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from weft.core.example import Answer, Dropped, Encoded, Purpose, Row
from weft.core.network import Network
from weft.errors import DataError
from weft.evaluate.predict import Watch, answer_all
from weft.task.base import Task, Tokenizer

Asked = dict[str, Answer | Dropped]
"""What became of one row, by task."""


def ask(
    network: Network,
    tasks: Mapping[str, Task],
    tokenizer: Tokenizer,
    rows: Mapping[str, Sequence[Row]],
    *,
    budget: int,
    dtype: torch.dtype,
    watch: Watch | None = None,
) -> list[Asked]:
    """Return what each task answers to each row: equal to asking row by row, whatever is batched with it.

    Args:
        network: trunk and heads.
        tasks: fitted tasks by name.
        tokenizer: of the network's trunk.
        rows: for each task that is asked, the same number of rows under that task's column names.
        budget: most tokens of one pass, padding included.
        dtype: of matrix products.
        watch: told of progress.
    """
    encoded = {name: tasks[name].encode(given, tokenizer, Purpose.ANSWER) for name, given in rows.items()}
    usable = {name: [one for one in results if isinstance(one, Encoded)] for name, results in encoded.items()}
    asked = {name: examples for name, examples in usable.items() if examples}
    found = answer_all(
        network, tasks, asked, pad=tokenizer.pad, budget=budget, dtype=dtype, losses=False, watch=watch
    )
    answers = {name: iter(found.answers.get(name, ())) for name in rows}
    num_rows = max((len(given) for given in rows.values()), default=0)
    return [
        {
            name: results[index] if isinstance(results[index], Dropped) else next(answers[name])
            for name, results in encoded.items()
        }
        for index in range(num_rows)
    ]


def questions(tasks: Mapping[str, Task], texts: Sequence[str], pair: str | None) -> dict[str, list[Row]]:
    """Return plain texts as rows for every task of ``tasks`` that takes such a text (or pair of texts).

    Raises:
        DataError: no task does.
    """
    asked: dict[str, list[Row]] = {}
    reasons: list[str] = []
    for name, task in tasks.items():
        try:
            asked[name] = [task.ask(text, pair) for text in texts]
        except DataError as error:
            reasons.append(str(error))
    if not asked:
        raise DataError("\n".join(reasons))
    return asked
