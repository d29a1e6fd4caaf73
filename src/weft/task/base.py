"""What a task family is. One file a family implements this; ``weft.task.registry`` lists them.

The way of a row: file row -> ``fit`` (labels, once) -> ``encode`` -> ``collate`` -> ``head`` -> ``loss`` | ``answers``
-> ``metrics``. Nothing outside ``weft.task`` asks for a task's kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from torch import nn

from weft.core.batch import Target
from weft.core.example import Answer, Dropped, Encoded, Purpose, Row
from weft.core.layout import Layout
from weft.core.loss import Loss
from weft.core.network import Inference, Network, TrunkInfo
from weft.core.stock import Stock, StockText
from weft.metric.base import Metric
from weft.recipe.spec import TaskSpec
from weft.report.details import Block


class Tokenizer(Protocol):
    """What tasks need of a tokenizer (``weft.model.tokenizer`` implements it on transformers' fast tokenizers)."""

    max_tokens: int
    pad: int
    stop: int  # token that ends a generated answer
    unknown: (
        int | None
    )  # token that stands for what the vocabulary does not have; None where it has everything
    reply_start: (
        int | None
    )  # token that a decoder of its own begins to write from; None without such a decoder
    languages: Mapping[str, int]  # tokens that say the language of a text, by code; empty where none does

    def texts(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Sequence[Pieces]:
        """Return each text (or text pair) with special tokens, cut to ``max_tokens`` (pairs: longest first)."""
        ...

    def words(self, sentences: Sequence[Sequence[str]]) -> Sequence[Pieces]:
        """Return each pre-split sentence with special tokens, cut to ``max_tokens``; ``Pieces.first`` is set."""
        ...

    def windows(self, texts: Sequence[str], pairs: Sequence[str], *, overlap: int) -> Sequence[Windows]:
        """Return each pair as one window or several of its second text, each behind the first text.

        Nothing of the second text is cut, and of the first what is longer than half of a row. Neighbouring windows share
        ``overlap`` tokens of the second text, at most half of what a window has of it.
        """
        ...

    def plain(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return each text's token ids without special tokens and without cutting."""
        ...

    def room(self, *, is_pair: bool) -> int:
        """Return how many tokens of a text, or of both texts of a pair, a row holds beside its special tokens."""
        ...

    def frame(self, first: Sequence[int], second: Sequence[int] | None = None) -> Pieces:
        """Return one text's (or pair's) token ids with special tokens around them, cut to ``max_tokens``."""
        ...

    def continued(self, texts: Sequence[str], *, behind: str = "\n") -> list[tuple[int, ...]]:
        """Return the ids of each text as it goes on behind another, which ends with ``behind``.

        Like ``plain``, but for what some tokenizers put before a text of its own.
        """
        ...

    @property
    def template(self) -> str | None:
        """The tokenizer's own chat template, None without one."""
        ...

    @property
    def specials(self) -> Mapping[str, int]:
        """Ids of the tokens that no text is merged with, by what they look like."""
        ...

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        template: str,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        is_open: bool = False,
        end: str = "",
    ) -> Rendered:
        """Return a conversation as the chat template ``template`` writes it.

        Args:
            messages: in the form that transformers gives to templates.
            template: in Jinja; it is run in transformers' sandbox.
            tools: definitions of tools.
            is_open: ends with the call to answer.
            end: what formats of a name put behind a message; empty for the tokenizer's own end token.

        Raises:
            TemplateRefusal: the template fails on this conversation.
            ModelError: it blows the conversation up.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ``tokens`` without special tokens."""
        ...

    @property
    def start(self) -> tuple[int, ...]:
        """Tokens that open a causal text (often one BOS token, or none)."""
        ...


class Pieces(Protocol):
    """One tokenized text."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Token ids, special tokens included."""
        ...

    @property
    def segments(self) -> tuple[int, ...] | None:
        """Token type ids of the same length, None where the model has none."""
        ...

    @property
    def num_cut(self) -> int:
        """Tokens lost to truncation."""
        ...

    @property
    def first(self) -> tuple[int, ...] | None:
        """Of ``words`` only: for each kept word the position of its first piece, -1 for a word without any.

        Words cut off have no entry, so there may be fewer entries than words.
        """
        ...


class Windows(Protocol):
    """One pair as strided windows of its second text, and where in that text each of its pieces stands."""

    @property
    def pieces(self) -> tuple[Pieces, ...]:
        """The windows, each a row for the trunk."""
        ...

    @property
    def at(self) -> int:
        """Position in each row of the window's first piece of the text."""
        ...

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """Pieces of the text that each window has: the first and the end, counted in the whole text."""
        ...

    @property
    def starts(self) -> Sequence[int]:
        """First character of each piece of the whole text."""
        ...

    @property
    def ends(self) -> Sequence[int]:
        """End of the characters of each piece of the whole text."""
        ...


class Rendered(Protocol):
    """A conversation as text."""

    @property
    def text(self) -> str:
        """The text."""
        ...

    @property
    def marks(self) -> tuple[tuple[int, int], ...]:
        """Where the template says that the assistant speaks, as characters; empty if it never says so."""
        ...


class Task(Protocol):
    """One task of a recipe: fitted to its training rows (labels, column names), otherwise without state."""

    kind: ClassVar[str]
    spec_type: ClassVar[type[TaskSpec]]
    wants_lm_head: ClassVar[bool]  # whether the head needs the trunk's own output embedding

    @property
    def name(self) -> str:
        """The task's name in the recipe."""
        ...

    @classmethod
    def fit(cls, name: str, spec: TaskSpec, rows: Sequence[Row]) -> Self:
        """Return the task with its labels and columns taken from the training ``rows`` (or given by ``spec``).

        Raises:
            DataError: no usable column for a role, fewer than two labels, ...
        """
        ...

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> Self:
        """Return the task that ``config()`` described; needs no data."""
        ...

    def config(self) -> dict[str, Any]:
        """Return all that ``from_config`` needs, as JSON values (labels, columns, options)."""
        ...

    def ask(self, text: str, pair: str | None = None) -> Row:
        """Return the row that puts a plain question to the task, under the names of its fitted columns.

        Raises:
            DataError: two texts for a task on one, or the other way round.
        """
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """The fitted columns that a question is made of; all others hold answers."""
        ...

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer, purpose: Purpose) -> list[Encoded | Dropped]:
        """Return one result a row, in order. With ``Purpose.ANSWER`` a missing label gives ``gold=None``, not Dropped.

        A row that is learnt from may give several examples, one behind the other, which count on in ``Encoded.part``
        (``weft.core.example.by_row`` tells them apart): a long text in blocks. A row that is to be answered gives one.

        A label that is there but cannot be used (not in the list, not a number) drops the row for both purposes, so
        that it is counted; who only wants answers leaves the label out.
        """
        ...

    def collate(self, encoded: Sequence[Encoded], rows: Sequence[int], layout: Layout) -> Target:
        """Return the target of ``encoded``, whose texts lie at batch rows ``rows``; works with and without gold.

        There are as many rows as the examples have texts, in their order: one each, unless the task gave some ``more``.
        Every one of them must be among the target's rows.

        Where examples have a ``reply``, the target addresses those: ``rows`` are their places among all replies, and
        ``layout`` is that of the replies. The target's rows are set by the caller.

        Values that address tokens address them in the layout's flat order (``layout.starts_B[row] + position``).
        Where one of ``encoded`` has no gold, the target has rows to answer, no labels, and weight 0.
        """
        ...

    def head(self, info: TrunkInfo, *, dropout: float, seed: int) -> nn.Module:
        """Return a new head (a ``weft.core.network.Head``), initialised from ``seed`` alone."""
        ...

    def loss(self, outputs: Any, target: Target) -> Loss:
        """Return the summed loss in fp32, and its weight, of what the task's own head returned."""
        ...

    def answers(self, inference: Inference, encoded: Sequence[Encoded]) -> list[Answer]:
        """Return one answer for each of ``encoded``, which ``collate`` has put into the inference's batch."""
        ...

    def baseline(self, golds: Sequence[Any], num_answers: int) -> list[Answer]:
        """Return what somebody who saw only the training ``golds`` would answer: majority, mean, ..."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of the family, the primary one first."""
        ...

    def describe(self, golds: Sequence[Any]) -> dict[str, int]:
        """Return counts worth showing before training: labels, tags, ... by name."""
        ...

    def same_head(self, config: Mapping[str, Any]) -> str | None:
        """Return why a head saved with ``config`` cannot be kept for this task (labels changed, ...), or None."""
        ...

    def stock(self) -> Stock:
        """Return what a stock transformers model would say of this task, for export."""
        ...


@runtime_checkable
class Told(Protocol):
    """A task that can be told to answer otherwise than its recipe says, and to run what it generated; others lack this.

    A task out of a bundle never runs generated code unless it is told to.
    """

    @property
    def options(self) -> Mapping[str, Any]:
        """How it answers, by the keys of a recipe."""
        ...

    def told(self, options: Mapping[str, Any], /) -> Task:
        """Return the task that answers by ``options``, which stand in the place of its own.

        Raises:
            DataError: an option that there is not, or a value that it cannot have.
        """
        ...


@runtime_checkable
class Generates(Protocol):
    """A task that generates text; others lack this."""

    def stock_text(self, tokenizer: Tokenizer, /) -> StockText:
        """Return how a stock model is asked as this task asks, and how it decodes its answers."""
        ...


@runtime_checkable
class Converses(Protocol):
    """A task that can go on with a conversation; others lack this."""

    def turn(self, messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer, /) -> Encoded | Dropped:
        """Return what asks for the next answer of a conversation of ``role`` and ``content``, the user's turn last."""
        ...

    def reply(self, network: Network, asked: Encoded, heard: Callable[[str], None], /) -> Answer:
        """Return the answer to one such turn; ``heard`` is told its text piece by piece."""
        ...


@runtime_checkable
class Calibrates(Protocol):
    """A task that fits something to dev rows besides what it learnt (a threshold, a temperature); others lack this.

    What is fitted is part of ``config()``, so it is saved with the head and stands in the bundle. Every dev evaluation
    fits anew, from what was fitted to the training rows alone.
    """

    def calibrated(self, golds: Sequence[Any], answers: Sequence[Answer], /) -> tuple[Task, list[Answer]]:
        """Return the task with what it fits to dev rows, and what it then answers to the same rows.

        Args:
            golds: right answers of the rows.
            answers: what this very task answered.
        """
        ...


@runtime_checkable
class Divides(Protocol):
    """A task whose loss is a sum over the texts of an example, so that one of many need not pass at once; others lack this."""

    def divided(self, example: Encoded, /) -> Sequence[Encoded]:
        """Return examples of one text each, whose losses and weights add up to those of ``example``, which is learnt."""
        ...


@runtime_checkable
class Warns(Protocol):
    """A task that sees in its training rows what people should know before they learn from them; others lack this."""

    def warnings(self, golds: Sequence[Any], /) -> tuple[str, ...]:
        """Return a sentence each on the right answers of the training rows, none where all is well."""
        ...


@runtime_checkable
class Shows(Protocol):
    """A task that shows more of its answers than its scores; others lack this, and have what all have."""

    def shown(self, golds: Sequence[Any], answers: Sequence[Answer], /) -> tuple[Block, ...]:
        """Return blocks of bounded size.

        Args:
            golds: right answers, at least one.
            answers: one for each.
        """
        ...
