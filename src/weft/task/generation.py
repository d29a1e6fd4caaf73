"""Generation: instruction tuning of decoders and encoder-decoders. The loss is on the answer alone.

Legend: M answer tokens, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import AfterValidator, Field, model_validator

from weft.core.batch import Target
from weft.core.example import Answer, Dropped, Encoded, Purpose, Row
from weft.core.layout import Layout
from weft.core.loss import Loss
from weft.core.network import Inference, Network, TrunkInfo
from weft.core.outputs import Projection
from weft.core.stock import Stock, StockForm
from weft.core.tensors import int64
from weft.data import columns as known
from weft.data.columns import Role, resolve
from weft.errors import DataError, ModelError
from weft.metric.base import Metric
from weft.objective.vocabulary import token_cross_entropy
from weft.recipe.spec import TaskSpec
from weft.task.answering import (
    JUDGING,
    PLAIN,
    AnswerOptions,
    AnswerSpec,
    baseline_answer,
    check_judging,
    generated,
    gold_of,
    judging_columns,
    prompt_of,
    split_given,
    spoken,
)
from weft.task.base import Tokenizer
from weft.task.heads import VocabularyHead
from weft.task.prompts import DEFAULT_TEMPLATE, Exchange, as_chat, check_template, exchange, fill
from weft.task.replies import pairs_of
from weft.task.sequence import Columns
from weft.task.speech import Listener


class GenerationSpec(AnswerOptions, TaskSpec):
    """A recipe's generation task."""

    kind: Literal["generation"]  # pyright: ignore[reportIncompatibleVariableOverride]
    """Task family."""
    template: Annotated[str, AfterValidator(check_template)] | None = None
    """Prompt with {instruction}, {input} and {system}; default: the chat template, else a plain one, else the bare text (T5)."""
    judge: int | None = Field(default=200, ge=1)
    """Dev rows that are answered at each evaluation while training, evenly spread; their loss is taken on all."""

    @model_validator(mode="after")
    def _executes_what_is_asked(self) -> Self:
        self.check_execute()
        return self


@dataclass(frozen=True, slots=True)
class Supervised:
    """The target of a row to learn: the answer starts at token ``start``."""

    start: int


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation task; it learns nothing from its rows but the names of their columns."""

    kind: ClassVar[str] = "generation"
    spec_type: ClassVar[type[TaskSpec]] = GenerationSpec
    wants_lm_head: ClassVar[bool] = True

    name: str
    columns: Columns
    max_new_tokens: int = 128
    template: str | None = None
    answering: AnswerSpec = PLAIN

    @classmethod
    def fit(cls, name: str, spec: TaskSpec, rows: Sequence[Row]) -> Self:
        """Return the task with the columns that ``rows`` have: a conversation, or instruction and output."""
        spec = cast(GenerationSpec, spec)
        asking, judging = split_given(spec.columns)
        columns = _columns(name, asking, rows)
        columns = {**columns, **judging_columns(name, judging, rows, taken=columns)}
        answering = AnswerSpec(decoding=spec.decoding, metrics=spec.metrics, execute=spec.execute)
        check_judging(name, columns, answering)
        if not any(isinstance(found := exchange(row, columns), Exchange) and found.answer for row in rows):
            raise DataError(
                f"tasks.{name}: at least one row must have an answer, but none of {len(rows)} has. "
                f"Give the right columns under columns: {{instruction: ..., output: ...}} or {{messages: ...}}."
            )
        return cls(name, columns, spec.max_new_tokens, spec.template, answering)

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> Self:
        """Return the task that ``config()`` described. It runs no generated code, whatever the config says."""
        answering = AnswerSpec.model_validate({**config.get("answering", {}), "execute": False})
        return cls(name, dict(config["columns"]), config["max_new_tokens"], config["template"], answering)

    def config(self) -> dict[str, Any]:
        """Return labels, columns and options as JSON values."""
        return {
            "columns": dict(self.columns),
            "max_new_tokens": self.max_new_tokens,
            "template": self.template,
            "answering": self.answering.model_dump(mode="json", exclude={"execute"}, exclude_defaults=True),
        }

    def ask(self, text: str, pair: str | None = None) -> Row:
        """Return the row that asks for the answer to ``text`` (and ``pair``)."""
        if self.columns["messages"] is not None:
            content = text if pair is None else f"{text}\n\n{pair}"
            return Row({self.columns["messages"]: [{"role": "user", "content": content}]}, where="question")
        if pair is not None and self.columns["input"] is None:
            raise DataError(f"{self.name}: the task takes one text, but two were given. Give it one text.")
        values = {self.columns["instruction"]: text} | (
            {self.columns["input"]: pair} if pair is not None else {}
        )
        return Row({str(column): value for column, value in values.items()}, where="question")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of everything but the answer; a conversation holds its answer in the same column."""
        return tuple(
            column for role, column in self.columns.items() if column and role not in ("output", *JUDGING)
        )

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer, purpose: Purpose) -> list[Encoded | Dropped]:
        """Return each row as tokens with its target, or why it is not used."""
        read = [self._read(row, purpose) for row in rows]
        if tokenizer.reply_start is not None:
            return self._encode_replies(rows, read, tokenizer, purpose)
        asked = [result for result in read if isinstance(result, Exchange)]
        prompts = iter(self._prompts(asked, tokenizer))
        answers = iter(tokenizer.plain([one.answer or "" for one in asked]) if asked else ())
        results: list[Encoded | Dropped] = []
        for row, result in zip(rows, read, strict=True):
            if isinstance(result, Dropped):
                results.append(result)
                continue
            prompt, num_cut = _cut_middle(next(prompts), self._room(tokenizer))
            answer = (*next(answers), tokenizer.stop)
            if purpose is Purpose.ANSWER:
                target = prompt_of(row, self.columns, self.answering, tokenizer)
                gold = gold_of(row, self.columns, result.answer)
                results.append(Encoded(prompt, None, target, gold, row.where, num_cut))
                continue
            tokens = (*prompt, *answer)[: tokenizer.max_tokens]
            num_cut += len(prompt) + len(answer) - len(tokens)
            gold = gold_of(row, self.columns, result.answer)
            results.append(Encoded(tokens, None, Supervised(len(prompt)), gold, row.where, num_cut))
        return results

    def _encode_replies(
        self, rows: Sequence[Row], read: Sequence[Exchange | Dropped], tokenizer: Tokenizer, purpose: Purpose
    ) -> list[Encoded | Dropped]:
        """Return each row for an encoder-decoder: the prompt is read, the answer is a reply of its own."""
        asked = [result for result in read if isinstance(result, Exchange)]
        pairs = iter(pairs_of(asked, tokenizer, template=self.template))
        learns = purpose is Purpose.LEARN
        results: list[Encoded | Dropped] = []
        for row, result in zip(rows, read, strict=True):
            if isinstance(result, Dropped):
                results.append(result)
                continue
            pair = next(pairs)
            source, cut = pair.source, pair.num_cut if learns else pair.source.num_cut
            reply = pair.reply if learns else None
            target = Supervised(1) if learns else prompt_of(row, self.columns, self.answering, tokenizer)
            gold = gold_of(row, self.columns, result.answer)
            results.append(Encoded(source.tokens, source.segments, target, gold, row.where, cut, reply=reply))
        return results

    def _read(self, row: Row, purpose: Purpose) -> Exchange | Dropped:
        found = exchange(row, self.columns)
        if isinstance(found, str):
            return Dropped(row.where, found)
        if found.answer is None and purpose is Purpose.LEARN:
            return Dropped(row.where, "no answer")
        return found

    def _prompts(self, asked: Sequence[Exchange], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
        if not asked:
            return []
        texts = tokenizer.chat([as_chat(one) for one in asked]) if self.template is None else None
        if texts is not None:  # a chat template writes the opening tokens itself
            return tokenizer.plain(texts)
        template = self.template or DEFAULT_TEMPLATE
        plain = tokenizer.plain([fill(template, one) for one in asked])
        return [(*tokenizer.start, *tokens) for tokens in plain]

    def _room(self, tokenizer: Tokenizer) -> int:
        """Return how many tokens a prompt may have: the same to learn and to answer."""
        return tokenizer.max_tokens - min(self.max_new_tokens, tokenizer.max_tokens // 2)

    def collate(self, encoded: Sequence[Encoded], rows: Sequence[int], layout: Layout) -> Target:
        """Return the target: ``positions`` is (M,), the flat places whose states predict ``labels`` (M,); the weight is M tokens."""
        rows_R = int64(rows)
        if not all(isinstance(example.target, Supervised) for example in encoded):
            return Target(rows_R, {}, weight=0.0, num_examples=len(encoded))
        starts = layout.starts_B.tolist()
        positions: list[int] = []
        labels: list[int] = []
        for row, example in zip(rows, encoded, strict=True):
            tokens = (example.reply or example).tokens
            first = max(1, example.target.start)  # no state predicts a row's first token
            positions += range(starts[row] + first - 1, starts[row] + len(tokens) - 1)
            labels += tokens[first:]
        values = {
            "positions": int64(positions),
            "labels": int64(labels),
        }
        return Target(rows_R, values, weight=float(len(labels)), num_examples=len(encoded))

    def head(self, info: TrunkInfo, *, dropout: float, seed: int) -> VocabularyHead:  # noqa: ARG002
        """Return the head on the trunk's own output embedding.

        Raises:
            ModelError: a trunk that neither is causal nor has a decoder, or has no output embedding.
        """
        if not (info.is_causal or info.is_encoder_decoder) or not info.vocabulary:
            raise ModelError(
                f"tasks.{self.name}: generation needs a causal model or an encoder-decoder with an output embedding, but "
                f"this trunk is neither. Choose a decoder such as a Llama, or a T5 or BART."
            )
        return VocabularyHead()

    def loss(self, outputs: Projection, target: Target) -> Loss:
        """Return the cross entropy over answer tokens."""
        return token_cross_entropy(outputs, target.values["labels"])

    def answers(self, inference: Inference, encoded: Sequence[Encoded]) -> list[Answer]:
        """Return the answer to each prompt."""
        return generated(
            inference.network, self.name, encoded, self.answering, max_new_tokens=self.max_new_tokens
        )

    def turn(self, messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> Encoded | Dropped:
        """Return what asks for the next answer of a conversation, whatever columns the task has learnt from."""
        columns = {role: "messages" if role == "messages" else None for role in self.columns}
        row = Row({"messages": list(messages)}, where="conversation")
        (asked,) = replace(self, columns=columns).encode([row], tokenizer, Purpose.ANSWER)
        return asked

    def reply(self, network: Network, asked: Encoded, heard: Listener) -> Answer:
        """Return the answer to one turn, told as it is generated."""
        return spoken(
            network, self.name, asked, self.answering, max_new_tokens=self.max_new_tokens, heard=heard
        )

    @property
    def options(self) -> Mapping[str, Any]:
        """How it answers, as in a recipe: decoding, metrics, execute and max_new_tokens."""
        return self._options.model_dump(mode="json", exclude_defaults=True)

    def told(self, options: Mapping[str, Any]) -> Self:
        """Return the task that answers by ``options``, which stand in the place of its own."""
        chosen = self._options.changed(options, task=self.name)
        answering = AnswerSpec(decoding=chosen.decoding, metrics=chosen.metrics, execute=chosen.execute)
        check_judging(self.name, self.columns, answering)
        return replace(self, answering=answering, max_new_tokens=chosen.max_new_tokens)

    @property
    def _options(self) -> AnswerOptions:
        own = self.answering
        return AnswerOptions(
            decoding=own.decoding,
            metrics=own.metrics,
            execute=own.execute,
            max_new_tokens=self.max_new_tokens,
        )

    def baseline(self, golds: Sequence[Any], num_answers: int) -> list[Answer]:
        """Return the most frequent text for every row; of equals the one seen first."""
        common = Counter(golds).most_common(1)
        return [baseline_answer(common[0][0] if common else "", self.answering)] * num_answers

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those that the recipe names, else exact match and F1 of words."""
        return self.answering.judged_by

    def describe(self, golds: Sequence[Any]) -> dict[str, int]:
        """Return the number of answers and of different answers."""
        return {"answers": len(golds), "different answers": len(set(golds))}

    def stock(self) -> Stock:
        """Return what a stock transformers model would say of this task, for export."""
        return Stock(StockForm.CAUSAL, (), None, "text-generation")

    def same_head(self, config: Mapping[str, Any]) -> str | None:  # noqa: ARG002
        """Return None: the output embedding belongs to the trunk, there is no head to keep or lose."""
        return None


def _columns(name: str, given: Mapping[str, str], rows: Sequence[Row]) -> Columns:
    """Return the columns: a conversation's, or else those of instruction data."""
    aliases: dict[str, tuple[str, ...]] = {
        "messages": known.MESSAGES,
        "instruction": known.INSTRUCTION,
        "input": known.INPUT,
        "output": known.OUTPUT,
        "system": known.SYSTEM,
    }
    if "messages" not in given and not given.keys().isdisjoint(("instruction", "output")):
        aliases["messages"] = ()  # the recipe speaks of instruction data
    wish = [Role(role, names, required=False) for role, names in aliases.items()]
    found = resolve(rows, wish, given, what=f"tasks.{name}")
    if found["messages"] is not None:
        return {role: found[role] if role == "messages" else None for role in aliases}
    needed = [Role(role, aliases[role], required=role in ("instruction", "output")) for role in aliases]
    return resolve(rows, needed, given, what=f"tasks.{name}")


def _cut_middle(tokens: tuple[int, ...], room: int) -> tuple[tuple[int, ...], int]:
    """Return at most ``room`` tokens and how many were lost: the instruction's start and the call to answer stay."""
    if len(tokens) <= room:
        return tokens, 0
    tail = room // 2
    return tokens[: room - tail] + tokens[len(tokens) - tail :], len(tokens) - room
