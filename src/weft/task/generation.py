"""Generation: instruction and chat tuning of decoders and encoder-decoders, continued pre-training of decoders.

Rows are read in ``weft.task.prompts`` and encoded in ``weft.task.encoding``.

Legend: M learnt tokens, V vocabulary.
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
from weft.core.stock import Stock, StockForm, StockText
from weft.errors import DataError, ModelError
from weft.metric.base import Metric
from weft.objective.vocabulary import token_cross_entropy
from weft.recipe.spec import TaskSpec
from weft.task.answering import (
    JUDGING,
    PLAIN,
    AnswerOptions,
    AnswerSpec,
    Prompt,
    baseline_answer,
    check_judging,
    decoding_of,
    generated,
    judging_columns,
    split_given,
    spoken,
)
from weft.task.base import Tokenizer
from weft.task.chat_template import chat_template
from weft.task.encoding import Encoder
from weft.task.heads import VocabularyHead
from weft.task.languages import ANY, Languages
from weft.task.prompts import ROLES, find_columns, teaches, why_nothing
from weft.task.sequence import Columns
from weft.task.speech import Listener
from weft.task.supervision import collate_tokens, parts_of
from weft.task.templates import check_template
from weft.task.writing import Learn


class GenerationSpec(AnswerOptions, TaskSpec):
    """A recipe's generation task."""

    kind: Literal["generation"]  # pyright: ignore[reportIncompatibleVariableOverride]
    """Task family."""
    template: Annotated[str, AfterValidator(check_template)] | None = None
    """A format (alpaca, chatml, gemma, llama2, llama3, mistral, phi3, qwen, vicuna, zephyr), or a prompt with {instruction},
    {input} and {system}; default: the tokenizer's own chat template, else a plain prompt, else the bare text (T5)."""
    learn: Learn = Learn.ANSWERS
    """What is learnt of a conversation: answers (every one), last (the last one) or all (every token, questions too).
    An encoder-decoder reads the conversation and writes its last answer, which is what it learns."""
    source_language: str | None = None
    """Of what is read, as a translator between many languages calls it (en_XX, eng_Latn); default: the language that a
    translation's row names."""
    target_language: str | None = None
    """Of what is written, likewise."""
    judge: int | None = Field(default=200, ge=1)
    """Dev rows that are answered at each evaluation while training, evenly spread; their loss is taken on all."""

    @model_validator(mode="after")
    def _executes_what_is_asked(self) -> Self:
        self.check_execute()
        return self


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
    learn: Learn = Learn.ANSWERS
    languages: Languages = ANY

    @classmethod
    def fit(cls, name: str, spec: TaskSpec, rows: Sequence[Row]) -> Self:
        """Return the task with the columns that ``rows`` have: of conversations, instructions or plain texts."""
        spec = cast(GenerationSpec, spec)
        asking, judging = split_given(spec.columns)
        columns = find_columns(name, asking, rows)
        columns = {**columns, **judging_columns(name, judging, rows, taken=columns)}
        answering = AnswerSpec(decoding=spec.decoding, metrics=spec.metrics, execute=spec.execute)
        check_judging(name, columns, answering)
        if not any(teaches(row, columns) for row in rows):
            raise DataError(
                f"tasks.{name}: at least one row must have an answer, but none of {len(rows)} has "
                f"({why_nothing(rows, columns)}). Give the right columns under columns: {{instruction: ..., output: "
                f"...}}, {{messages: ...}} or {{text: ...}}."
            )
        languages = Languages(spec.source_language, spec.target_language)
        return cls(name, columns, spec.max_new_tokens, spec.template, answering, spec.learn, languages)

    @classmethod
    def from_config(cls, name: str, config: Mapping[str, Any]) -> Self:
        """Return the task that ``config()`` described. It runs no generated code, whatever the config says."""
        answering = AnswerSpec.model_validate({**config.get("answering", {}), "execute": False})
        columns = dict.fromkeys(ROLES) | dict(config["columns"])
        learn = Learn(config.get("learn", Learn.ANSWERS))
        languages = Languages(config.get("source_language"), config.get("target_language"))
        return cls(name, columns, config["max_new_tokens"], config["template"], answering, learn, languages)

    def config(self) -> dict[str, Any]:
        """Return labels, columns and options as JSON values."""
        return {
            "columns": dict(self.columns),
            "max_new_tokens": self.max_new_tokens,
            "template": self.template,
            "learn": self.learn.value,
            "source_language": self.languages.source,
            "target_language": self.languages.target,
            "answering": self.answering.model_dump(mode="json", exclude={"execute"}, exclude_defaults=True),
        }

    def ask(self, text: str, pair: str | None = None) -> Row:
        """Return the row that asks for the answer to ``text`` (and ``pair``)."""
        columns = self.columns
        if columns["messages"] is not None:
            content = text if pair is None else f"{text}\n\n{pair}"
            return Row({columns["messages"]: [{"role": "user", "content": content}]}, where="question")
        if pair is not None and columns["input"] is None:
            raise DataError(f"{self.name}: the task takes one text, but two were given. Give it one text.")
        values = {str(columns["instruction"]): text} | (
            {str(columns["input"]): pair} if pair is not None else {}
        )
        if columns["translation"] is not None:
            return Row({columns["translation"]: values}, where="question")
        return Row(values, where="question")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of everything but the answer; conversations and translations hold it in the same column."""
        whole = self.columns["translation"]
        if whole is not None:
            roles = {"translation", "system", "history", "tools"}
        elif self.columns["text"] is not None:
            roles = {"instruction"}
        else:
            roles = set(self.columns) - {"output", *JUDGING}
        return tuple(column for role, column in self.columns.items() if column and role in roles)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer, purpose: Purpose) -> list[Encoded | Dropped]:
        """Return each row as tokens with its target, or why it is not used."""
        encoder = Encoder(
            self.name,
            tokenizer,
            columns=self.columns,
            answering=self.answering,
            template=self.template,
            learn=self.learn,
            max_new_tokens=self.max_new_tokens,
            languages=self.languages,
        )
        return encoder.encode(rows, purpose)

    def collate(self, encoded: Sequence[Encoded], rows: Sequence[int], layout: Layout) -> Target:
        """Return the target: the places whose states predict the learnt tokens, and what each counts."""
        return collate_tokens(encoded, rows, layout)

    def divided(self, example: Encoded) -> list[Encoded]:
        """Return each text of a conversation that is learnt in several as an example of its own."""
        return parts_of(example)

    def head(self, info: TrunkInfo, *, dropout: float, seed: int) -> VocabularyHead:  # noqa: ARG002
        """Return the head on the trunk's own output embedding.

        Raises:
            ModelError: a trunk that neither is causal nor has a decoder, or has no output embedding; one that reads the
                questions with its encoder, where they are to be learnt too.
        """
        if not (info.is_causal or info.is_encoder_decoder) or not info.vocabulary:
            raise ModelError(
                f"tasks.{self.name}: generation needs a causal model or an encoder-decoder with an output embedding, but "
                f"this trunk is neither. Choose a decoder such as a Llama, or a T5 or BART."
            )
        if info.is_encoder_decoder and self.learn is Learn.ALL:
            raise ModelError(
                f"tasks.{self.name}.learn: must be answers or last on an encoder-decoder, whose decoder writes nothing but "
                f"the last answer, but is all. Leave it out, or choose a decoder."
            )
        return VocabularyHead()

    def loss(self, outputs: Projection, target: Target) -> Loss:
        """Return the cross entropy over learnt tokens, each times what it counts."""
        weights_M = target.values.get("weights")
        loss = token_cross_entropy(outputs, target.values["labels"], weights_M=weights_M)
        return loss if weights_M is None else replace(loss, weight=target.weight)

    def answers(self, inference: Inference, encoded: Sequence[Encoded]) -> list[Answer]:
        """Return the answer to each prompt."""
        return generated(
            inference.network, self.name, encoded, self.answering, max_new_tokens=self.max_new_tokens
        )

    def turn(self, messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> Encoded | Dropped:
        """Return what asks for the next answer of a conversation, whatever columns the task has learnt from."""
        columns = {role: "messages" if role == "messages" else None for role in self.columns}
        row = Row({"messages": list(messages)}, where="conversation")
        languages = self.languages.found(self.name, tokenizer, self.columns) or ANY
        (asked,) = replace(self, columns=columns, languages=languages).encode(
            [row], tokenizer, Purpose.ANSWER
        )
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

    def stock_text(self, tokenizer: Tokenizer) -> StockText:
        """Return how it decodes, the template as one in Jinja for a decoder, the languages for a translator."""
        (asked,) = self.encode([self.ask("?")], tokenizer, Purpose.ANSWER)
        target = asked.target if isinstance(asked, Encoded) else Prompt(tokenizer.stop, tokenizer.decode)
        decoding = decoding_of(self.answering, target, self.max_new_tokens)
        if tokenizer.reply_start is None:
            is_asked = self.columns["text"] is None
            return StockText(decoding, chat_template(tokenizer, self.template) if is_asked else None)
        languages = self.languages.found(self.name, tokenizer, self.columns)
        if languages is None:
            return StockText(decoding)
        source, _ = languages.ids(tokenizer)
        return StockText(decoding, None, (str(languages.source), str(languages.target)), source=source)

    def same_head(self, config: Mapping[str, Any]) -> str | None:  # noqa: ARG002
        """Return None: the output embedding belongs to the trunk, there is no head to keep or lose."""
        return None
