"""One text or a pair in, one vector out: what classification, regression and ordinal regression have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from weft.core.example import Dropped, Encoded, Row
from weft.core.features import Pooling
from weft.core.network import TrunkInfo
from weft.core.stock import ProblemType, Stock, StockForm
from weft.errors import DataError
from weft.task.base import Tokenizer
from weft.task.documents import Windows, from_config, pooling_of, read, to_config
from weft.task.heads import SequenceHead, Units, choose_pooling, new_linear, other_pooling
from weft.task.sequence import Columns, Judged, example_of, text_in


@dataclass(frozen=True, slots=True)
class Texts:
    """How a task reads its texts and makes a vector of each; it is written among the task's own values.

    Attributes:
        columns: by role; ``text`` and ``pair`` are read here, the task reads the others.
        pooling: asked for; None for the architecture's own.
        windows: into which a text that is too long is divided; None where it is cut.
    """

    columns: Columns
    pooling: Pooling | None = None
    windows: Windows | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return what ``config()`` described."""
        pooling = None if config["pooling"] is None else Pooling(config["pooling"])
        return cls(dict(config["columns"]), pooling, from_config(config))

    def config(self) -> dict[str, Any]:
        """Return columns and options as JSON values."""
        pooling = None if self.pooling is None else str(self.pooling)
        return {"columns": dict(self.columns), "pooling": pooling, "windows": to_config(self.windows)}

    def ask(self, text: str, pair: str | None, *, task: str) -> Row:
        """Return the row that asks ``task`` for the answer to ``text`` (and ``pair``).

        Raises:
            DataError: two texts for a task on one, or the other way round.
        """
        if (self.columns["pair"] is None) != (pair is None):
            want, have = ("one text", "two were") if pair is not None else ("a pair of texts", "one was")
            raise DataError(
                f"{task}: the task takes {want}, but {have} given. Give it what it was trained on."
            )
        return Row(dict(zip(self.inputs, (text, pair), strict=False)), where="question")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of the text and, where there is one, the second text."""
        return tuple(column for role in ("text", "pair") if (column := self.columns[role]) is not None)

    def encode(
        self, rows: Sequence[Row], tokenizer: Tokenizer, judge: Callable[[Row], Judged | Dropped]
    ) -> list[Encoded | Dropped]:
        """Return each row's text or pair as tokens with the target that ``judge`` gives, or why it is not used."""
        results = [judge(row) if self._has_text(row) else Dropped(row.where, "empty text") for row in rows]
        kept = [row for row, result in zip(rows, results, strict=True) if isinstance(result, Judged)]
        texts = [text_in(row, self.columns["text"]) for row in kept]
        pairs = [text_in(row, self.columns["pair"]) for row in kept] if self.columns["pair"] else None
        readings = iter(read(texts, pairs, tokenizer, self.windows) if kept else ())
        encoded: list[Encoded | Dropped] = []
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, Dropped):
                encoded.append(result)
            else:
                pieces, num_cut = next(readings)
                encoded.append(example_of(pieces, result, row.where, num_cut=num_cut))
        return encoded

    def _has_text(self, row: Row) -> bool:
        return all(text_in(row, column) for column in self.inputs)

    def head(
        self,
        info: TrunkInfo,
        num_outputs: int,
        *,
        task: str,
        dropout: float,
        seed: int,
        units: Units | None = None,
    ) -> SequenceHead:
        """Return a new head for ``task``, with a bias where the architecture's stock head has one.

        Raises:
            ModelError: the trunk does not have the pooling that was asked for.
        """
        pooling = choose_pooling(info, self.pooling, task=task)
        out = new_linear(info, num_outputs, has_bias=info.has_bias, seed=seed)
        windows = pooling_of(self.windows)
        return SequenceHead(out, pooling=pooling, dropout=dropout, units=units, windows=windows)

    def stock(self, labels: tuple[str, ...], problem: ProblemType) -> Stock:
        """Return what a stock transformers model would say of a task with these outputs, for export."""
        return Stock(StockForm.SEQUENCE, labels, problem, "text-classification", to_config(self.windows))

    def changed(self, config: Mapping[str, Any]) -> str | None:
        """Return why a head saved with ``config`` reads other vectors, or None."""
        return other_pooling(config, self.pooling)
