"""Tagging: a label for every word, learnt and answered at the word's first sub-word.

Legend: M words with a first sub-word, C tags.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import BeforeValidator
from torch import Tensor

from weft.core.batch import Target
from weft.core.example import Answer, Dropped, Encoded, Purpose, Row
from weft.core.layout import Layout
from weft.core.loss import Loss
from weft.core.network import Inference, TrunkInfo
from weft.core.stock import Stock, StockForm
from weft.core.tensors import int64
from weft.errors import DataError
from weft.metric.base import Metric
from weft.metric.tagging import OUTSIDE, spans, tagging_metrics, word_metrics
from weft.recipe.spec import TaskSpec
from weft.report.details import Block
from weft.task.base import Pieces, Tokenizer
from weft.task.criterion import PLAIN, Criterion, CriterionSpec, class_weights
from weft.task.heads import TokenHead, new_linear
from weft.task.labels import are_ids, difference, given_labels, named
from weft.task.schemes import Scheme, all_tags, num_broken, recognise, repaired, spelled, write
from weft.task.sequence import Columns
from weft.task.shown import span_blocks, tag_blocks
from weft.task.spans import Reading, Unit, are_spans, find_columns, unit_of
from weft.task.spans import read as read_spans
from weft.task.words import listed, places, text_of, words_like, words_of


class TaggingSpec(CriterionSpec):
    """A recipe's tagging task."""

    kind: Literal["tagging"]  # pyright: ignore[reportIncompatibleVariableOverride]
    """Task family."""
    labels: Annotated[tuple[str, ...], BeforeValidator(given_labels)] = ()
    """Tags in the order of the outputs, and of the ids where data has ids; default: those of the training rows."""
    scheme: Scheme | None = None
    """How tags mark spans: bio, bioes (also BILOU, BMES), iob1, io, or plain for none; default: as the data looks."""
    repair: bool = True
    """Whether tags that break the scheme are repaired, as conlleval reads them, and counted; else such rows are dropped."""


@dataclass(frozen=True, slots=True)
class Words:
    """The target of one row: its words, where their first pieces stand in the row, and the tags to learn there.

    Attributes:
        words: all words, also those without pieces or cut off.
        index: of each word that has a first piece.
        positions: of those first pieces in the row's tokens.
        labels: tag numbers of those words; None without gold.
        text: that the words are pieces of; of a list of words empty.
        bounds: characters of each word in it.
    """

    words: tuple[str, ...]
    index: tuple[int, ...]
    positions: tuple[int, ...]
    labels: tuple[int, ...] | None
    text: str = ""
    bounds: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class _Read:
    """The words of a row, their tags where it has some, and where they stand in its text, if it has one."""

    words: tuple[str, ...]
    gold: tuple[str, ...] | None = None
    text: str = ""
    bounds: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Tagging:
    """A fitted tagging task.

    Attributes:
        name: of the task.
        columns: by role.
        labels: tags in the order of the outputs.
        scheme: how they mark spans.
        repair: whether tags that break the scheme are repaired, or their rows dropped.
        has_ids: whether data holds numbers of ``labels`` instead of tags.
        num_repaired: tags of the training rows that were repaired.
        criterion: how the loss over words is summed.
        unit: what texts are cut into, where data marks spans in a text; None where it gives each word a tag.
    """

    kind: ClassVar[str] = "tagging"
    spec_type: ClassVar[type[TaskSpec]] = TaggingSpec
    wants_lm_head: ClassVar[bool] = False

    name: str
    columns: Columns
    labels: tuple[str, ...]
    scheme: Scheme
    repair: bool = True
    has_ids: bool = False
    num_repaired: int = 0
    criterion: Criterion = PLAIN
    unit: Unit | None = None

    @classmethod
    def fit(cls, name: str, spec: TaskSpec, rows: Sequence[Row]) -> Self:
        """Return the task with the scheme and the tags of ``rows``, or those that ``spec`` gives."""
        spec = cast(TaggingSpec, spec)
        columns = find_columns(rows, spec.columns, what=f"tasks.{name}")
        unit = None
        if any(are_spans(row.values.get(str(columns["tags"]))) for row in rows):
            unit = unit_of(rows, columns)
            raw = _tags_of_spans(name, [read_spans(row, columns, unit) for row in rows], columns, spec.scheme)
        else:
            raw = [tags for row in rows if (tags := _tags_of(row, columns))]
        has_ids = are_ids({tag for tags in raw for tag in tags}, spec.labels)
        raw = [named(tags, spec.labels) for tags in raw] if has_ids else raw
        scheme = spec.scheme or (Scheme.BIO if unit else _recognised(name, raw, columns, labels=spec.labels))
        read = [tags for row in raw if (tags := spelled(row, scheme)) is not None]
        seen = {tag for row in read for tag in row}
        labels = spelled(spec.labels, scheme) if spec.labels else all_tags(seen, scheme)
        if labels is None or len(set(labels)) < len(labels):
            raise DataError(
                f"tasks.{name}.labels: must be different tags of scheme {scheme}, but are {list(spec.labels)}."
            )
        if len(labels) < 2 or not seen & set(labels):
            raise DataError(
                f"tasks.{name}: column {columns['tags']!r} must hold at least two different tags of scheme {scheme}, "
                f"but holds {_examples(raw)}. Give the right column or the scheme ({', '.join(Scheme)})."
            )
        _refuse_ids(name, seen, scheme, columns)
        broken = sum(num_broken(tags, scheme) for tags in read) if spec.repair else 0
        criterion = Criterion.of(spec, _weights(read, labels, scheme, spec))
        return cls(name, columns, labels, scheme, spec.repair, has_ids, broken, criterion, unit)

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> Self:
        """Return the task that ``config()`` described."""
        labels, scheme = tuple(config["labels"]), Scheme(config["scheme"])
        options = (config["repair"], config["has_ids"], config["num_repaired"])
        criterion = Criterion.from_config(config["criterion"]) if "criterion" in config else PLAIN
        unit = Unit(config["unit"]) if config.get("unit") else None
        return cls(name, dict(config["columns"]), labels, scheme, *options, criterion, unit)

    def config(self) -> dict[str, Any]:
        """Return labels, columns and options as JSON values."""
        return {
            "columns": dict(self.columns),
            "labels": list(self.labels),
            "scheme": str(self.scheme),
            "repair": self.repair,
            "has_ids": self.has_ids,
            "num_repaired": self.num_repaired,
            "criterion": self.criterion.config(),
            "unit": None if self.unit is None else str(self.unit),
        }

    def ask(self, text: str, pair: str | None = None) -> Row:
        """Return the row that asks for the answer to ``text`` (and ``pair``)."""
        if pair is not None:
            raise DataError(
                f"{self.name}: the task takes one text, but two were given. Give it one sentence."
            )
        return Row({str(self.columns["tokens"]): text}, where="question")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The column of the words."""
        return (str(self.columns["tokens"]),)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer, purpose: Purpose) -> list[Encoded | Dropped]:
        """Return each row as tokens with its target, or why it is not used."""
        read = [self._read(row, purpose) for row in rows]
        sentences = [one.words for one in read if not isinstance(one, Dropped)]
        pieces = iter(tokenizer.words(sentences) if sentences else ())
        return [
            one if isinstance(one, Dropped) else self._encoded(row, one, next(pieces), purpose)
            for row, one in zip(rows, read, strict=True)
        ]

    def _read(self, row: Row, purpose: Purpose) -> _Read | Dropped:
        """Return the words and gold tags of a row, or why it is not used."""
        read = self._tagged(row) if self.unit is None else self._marked(row, self.unit)
        if isinstance(read, Dropped):
            return read
        if read.gold is None:
            return Dropped(row.where, "no tags") if purpose is Purpose.LEARN else read
        return read if set(read.gold) <= set(self.labels) else Dropped(row.where, "tag not in the list")

    def _marked(self, row: Row, unit: Unit) -> _Read | Dropped:
        """Return what a row with spans in a text says."""
        found = read_spans(row, self.columns, unit)
        if found is None:
            return Dropped(row.where, "no tokens")
        if isinstance(found.spans, str):
            return Dropped(row.where, found.spans)
        gold = None if found.spans is None else write(found.spans, len(found.words), self.scheme)
        return _Read(found.words, gold, found.text, found.bounds)

    def _tagged(self, row: Row) -> _Read | Dropped:
        """Return what a row with a tag for each word says."""
        value = listed(row.values.get(str(self.columns["tokens"])))
        raw = _tags_of(row, self.columns)
        raw = named(raw, self.labels) if raw and self.has_ids else raw
        if not value:
            return Dropped(row.where, "no tokens")
        if raw is None:
            words = words_of(value)
            return (
                _Read(words) if isinstance(value, list) else _Read(words, None, value, places(words, value))
            )
        words, tags = words_like(value, len(raw)), spelled(raw, self.scheme)
        if len(words) != len(raw):
            return Dropped(row.where, "tokens and tags differ in number")
        if tags is None:
            return Dropped(row.where, f"tag not of scheme {self.scheme}")
        right = repaired(tags, self.scheme)
        if right != tags and not self.repair:
            return Dropped(row.where, f"tags break scheme {self.scheme}")
        return _Read(words, right)

    def _encoded(self, row: Row, read: _Read, pieces: Pieces, purpose: Purpose) -> Encoded | Dropped:
        kept = [(index, position) for index, position in enumerate(pieces.first or ()) if position >= 0]
        if not kept and purpose is Purpose.LEARN:
            return Dropped(row.where, "no word has a piece")
        index, positions = tuple(word for word, _ in kept), tuple(position for _, position in kept)
        numbers = {label: number for number, label in enumerate(self.labels)}
        labels = None if read.gold is None else tuple(numbers[read.gold[word]] for word in index)
        target = Words(read.words, index, positions, labels, read.text, read.bounds)
        return Encoded(pieces.tokens, pieces.segments, target, read.gold, row.where, num_cut=pieces.num_cut)

    def collate(self, encoded: Sequence[Encoded], rows: Sequence[int], layout: Layout) -> Target:
        """Return the target: ``positions`` is (M,) in flat order, ``labels`` (M,); the weight is M words, or what they count."""
        targets = [cast(Words, example.target) for example in encoded]
        starts = layout.starts_B.tolist()
        positions = [
            starts[row] + at for row, target in zip(rows, targets, strict=True) for at in target.positions
        ]
        values = {"positions": int64(positions)}
        has_gold = all(target.labels is not None for target in targets)
        if has_gold:
            labels = [label for target in targets for label in target.labels or ()]
            values["labels"] = int64(labels)
        weight = float(len(positions)) if has_gold else 0.0
        return self.criterion.weigh(Target(int64(rows), values, weight, num_examples=len(encoded)))

    def head(self, info: TrunkInfo, *, dropout: float, seed: int) -> TokenHead:
        """Return a new head with one output a tag."""
        # Stock token classifiers have a bias in every architecture, whatever their sequence classifiers do.
        return TokenHead(new_linear(info, len(self.labels), has_bias=True, seed=seed), dropout=dropout)

    def loss(self, outputs: Tensor, target: Target) -> Loss:
        """Return the cross entropy over words."""
        return self.criterion.loss(outputs, target)

    def answers(self, inference: Inference, encoded: Sequence[Encoded]) -> list[Answer]:
        """Return a tag for every word; words cut off or without pieces are ``O``."""
        best = iter(inference.outputs(self.name).detach().argmax(1).tolist())
        answers: list[Answer] = []
        for example in encoded:
            target = cast(Words, example.target)
            tags = [OUTSIDE] * len(target.words)
            for index in target.index:
                tags[index] = self.labels[next(best)]
            answers.append(self._answer(tags, target))
        return answers

    def _answer(self, tags: Sequence[str], target: Words) -> Answer:
        if self.scheme is Scheme.PLAIN:
            return Answer(tags=tuple(tags))
        return Answer(tags=tuple(tags), spans=tuple(_span(target, *span) for span in spans(tags)))

    def shown(self, golds: Sequence[Any], answers: Sequence[Answer]) -> tuple[Block, ...]:
        """Return the scores of each type of span and how spans are wrong; of plain tags, which are taken for which."""
        return (tag_blocks if self.scheme is Scheme.PLAIN else span_blocks)(golds, answers)

    def baseline(self, golds: Sequence[Any], num_answers: int) -> list[Answer]:
        """Return ``O`` for every word (PLAIN: the most frequent tag), for as many words as the longest gold has.

        Metrics take words beyond an answer's end as ``O``.
        """
        counts = Counter(tag for gold in golds for tag in gold)
        common = OUTSIDE
        if self.scheme is Scheme.PLAIN:
            common = max(self.labels, key=lambda label: counts[label])
        tags = (common,) * max(map(len, golds), default=0)
        return [Answer(tags=tags, spans=None if self.scheme is Scheme.PLAIN else ())] * num_answers

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Span F1 first; without spans, token accuracy."""
        return word_metrics() if self.scheme is Scheme.PLAIN else tagging_metrics()

    def describe(self, golds: Sequence[Any]) -> dict[str, int]:
        """Return the number of words and of spans by type (PLAIN: of words by tag), and of repairs where there are."""
        counts = {"words": sum(map(len, golds))}
        if self.scheme is Scheme.PLAIN:
            found = Counter(tag for gold in golds for tag in gold)
        else:
            found = Counter(kind for gold in golds for kind, _, _ in spans(gold))
        repairs = {"tags repaired in training rows": self.num_repaired} if self.num_repaired else {}
        return counts | dict(sorted(found.items())) | repairs

    def stock(self) -> Stock:
        """Return what a stock transformers model would say of this task, for export."""
        return Stock(StockForm.TOKENS, self.labels, None, "token-classification")

    def same_head(self, config: Mapping[str, Any]) -> str | None:
        """Return why an old head does not fit: the tags or their order changed."""
        return difference(config.get("labels", ()), self.labels)


def _span(target: Words, kind: str, start: int, end: int) -> dict[str, Any]:
    """Return a span of words with its text: sign for sign, and with its characters, where the words stand in one."""
    span = {"type": kind, "start": start, "end": end}
    if not target.text:
        return {**span, "text": text_of(target.words[start:end])}
    first, last = target.bounds[start][0], target.bounds[end - 1][1]
    return {**span, "text": target.text[first:last], "start_char": first, "end_char": last}


def _tags_of_spans(
    name: str, rows: Sequence[Reading | None], columns: Columns, scheme: Scheme | None
) -> list[tuple[str, ...]]:
    """Return the tags of the rows whose spans can be used, in the scheme that is asked for, else BIO."""
    if scheme is Scheme.PLAIN:
        raise DataError(
            f"tasks.{name}.scheme: must mark spans, for column {columns['tags']!r} holds spans, but is plain. Leave it out."
        )
    return [
        write(one.spans, len(one.words), scheme or Scheme.BIO)
        for one in rows
        if one is not None and isinstance(one.spans, tuple)
    ]


def _weights(
    rows: Sequence[Sequence[str]], labels: Sequence[str], scheme: Scheme, spec: TaggingSpec
) -> tuple[float, ...]:
    """Return what a word of each tag counts."""
    if spec.balance == "none":
        return ()
    found = Counter(tag for row in rows for tag in repaired(row, scheme))
    return class_weights([found[label] for label in labels], spec)


def _tags_of(row: Row, columns: Columns) -> tuple[str, ...] | None:
    """Return the tags of a row as written; None where there are none."""
    value = listed(row.values.get(str(columns["tags"])))
    if not value:
        return None
    return tuple(str(tag) for tag in (value.split() if isinstance(value, str) else value))


def _recognised(
    name: str, rows: Sequence[Sequence[str]], columns: Columns, *, labels: Sequence[str]
) -> Scheme:
    scheme = recognise(rows, labels)
    if scheme is None:
        raise DataError(
            f"tasks.{name}: tags of column {columns['tags']!r} must all have a mark such as B- or I-, or none of them, "
            f"but they are mixed: {_examples(rows)}. Correct them, or give a scheme: {', '.join(Scheme)}."
        )
    return scheme


def _refuse_ids(name: str, seen: set[str], scheme: Scheme, columns: Columns) -> None:
    if scheme is Scheme.PLAIN and all(tag.isdigit() for tag in seen):
        raise DataError(
            f"tasks.{name}: tags must be names, but column {columns['tags']!r} holds ids. "
            f"Name them in the order of the ids under labels: [O, B-PER, ...]."
        )


def _examples(rows: Sequence[Sequence[str]]) -> str:
    distinct = sorted({tag for row in rows for tag in row})
    return ", ".join(distinct[:12]) + (", ..." if len(distinct) > 12 else "")
