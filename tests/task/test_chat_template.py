"""Formats and prompts as one chat template: transformers makes the tokens of it that Weft asks with, in two languages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from weft.core.example import Purpose, Row
from weft.model.tokenizer import HFTokenizer
from weft.task.chat_template import chat_template
from weft.task.prompts import find_columns, read
from weft.task.rendering import renderer
from weft.task.templates import DEFAULT_TEMPLATE, FORMATS

MARKS = (
    "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>",
)  # fmt: skip
OWN = "{system}\n\nFrage „A\\B“ {input}:\n{instruction}\n\nonly here\n\nAntwort 😀: "
TEMPLATES = (*FORMATS, OWN, "{instruction}", "Q: {instruction}\nA:", DEFAULT_TEMPLATE)
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "天气",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
USER = {"role": "user", "content": "Name a city. 说一个城市。"}
SYSTEM = {"role": "system", "content": 'Be "brief" {and} kind'}
FIRST: list[list[dict[str, Any]]] = [[USER], [SYSTEM, USER], [{"role": "user", "content": "上海？\n\n好 "}]]
SAID = {"role": "assistant", "content": "Paris。"}
CALL = {"id": "c00010000", "type": "function", "function": {"name": "weather", "arguments": {"city": "巴黎"}}}
CALLING = {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, CALL]}
RESULT = {"role": "tool", "content": '{"t": 20}', "name": "weather"}
LATER: list[list[dict[str, Any]]] = [
    [USER, SAID, {"role": "user", "content": "Why?"}],
    [SYSTEM, USER, SAID, USER, {"role": "assistant", "content": "北京"}, USER],
]
TOOLS: list[list[dict[str, Any]]] = [
    [USER],
    [SYSTEM, USER, CALLING, RESULT, RESULT],
    [USER, {**CALLING, "content": ""}, RESULT, SAID, USER],
]


def by_bytes(*marks: str, begins: bool) -> Any:
    """Return a tokenizer of bytes: GPT-2's without merges, that opens texts with a token or not."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: at for at, sign in enumerate(["<|endoftext|>", "<|begin|>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    bos = {"bos_token": "<|begin|>"} if begins else {}
    stock = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", **bos)
    stock.add_tokens(list(marks), special_tokens=True)
    return stock


def reading_blanks(folder: Path) -> Any:
    """Return the Llama's tokenizer, which then puts a blank before the first word of a text alone."""
    found = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    found["normalizer"] = None
    found["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "first",
        "split": False,
    }
    found["post_processor"] = None
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    backend = Tokenizer.from_str(json.dumps(found))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@pytest.fixture(params=["llama", "llama, first word", "llama with marks", "bytes", "bytes with marks"])
def stock(request, stories260k: Path) -> Any:
    """Return a tokenizer of transformers."""
    match request.param:
        case "bytes":
            return by_bytes(begins=False)
        case "bytes with marks":
            return by_bytes(*MARKS, begins=True)
        case "llama, first word":
            return reading_blanks(stories260k)
        case _:
            found = transformers.AutoTokenizer.from_pretrained(stories260k, local_files_only=True)
            found.chat_template = None
            found.add_tokens(list(MARKS) if "marks" in request.param else [], special_tokens=True)
            return found


def of_ours(stock: Any) -> HFTokenizer:
    return HFTokenizer(stock, max_tokens=8192, has_segments=False)


def asked(kit, tokenizer, template, messages, tools=()) -> tuple[int, ...]:
    """Return what Weft asks for the answer to ``messages``."""
    row = {"messages": [*messages, {"role": "assistant", "content": "x"}]} | (
        {"tools": tools} if tools else {}
    )
    task = kit.fit("generation", [row], template=template)
    (one,) = task.encode(kit.rows([row]), tokenizer, Purpose.ANSWER)
    return one.tokens


def text_of(tokenizer: HFTokenizer, template: str, messages, tools=()) -> str:
    """Return the same as text, the tokens that stand for no text written out."""
    row_values = {"messages": [*messages, {"role": "assistant", "content": "x"}], "tools": list(tools)}
    row = Row(row_values, where="here")
    talk = read(row, find_columns("t", {}, [row]))
    way = renderer(tokenizer, template)
    talk = way.fitted(talk)
    marks = {number: mark for mark, number in tokenizer.specials.items()}
    pieces = way.prompt(replace(talk, turns=talk.turns[:-1]))
    body = "".join(piece.text + marks[way.stop] * piece.stops for piece in pieces)
    return "".join(marks[token] for token in way.start) + body


@pytest.mark.parametrize("template", TEMPLATES)
def test_first_questions_are_the_same_tokens(kit, stock, template):
    tokenizer = of_ours(stock)
    stock.chat_template = chat_template(tokenizer, template)
    for messages in FIRST:
        found = stock.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert list(asked(kit, tokenizer, template, messages)) == found, messages
    found = stock.apply_chat_template(TOOLS[0], tools=[TOOL], add_generation_prompt=True, return_dict=False)
    assert list(asked(kit, tokenizer, template, TOOLS[0], [TOOL])) == found


@pytest.mark.parametrize("template", TEMPLATES)
def test_later_questions_and_tools_are_the_same_text(stock, template):
    tokenizer = of_ours(stock)
    stock.chat_template = chat_template(tokenizer, template)
    bos = stock.bos_token or ""
    for messages, tools in [*((one, []) for one in LATER), *((one, [TOOL]) for one in TOOLS)]:
        found = stock.apply_chat_template(
            messages, tools=tools or None, add_generation_prompt=True, tokenize=False
        )
        wanted = text_of(tokenizer, template, messages, tools)
        assert found in (wanted, wanted.replace(bos, f"{bos} ", 1))


@pytest.mark.parametrize("template", ["chatml", "qwen", "llama3", "phi3", "zephyr"])
def test_where_marks_stand_between_turns_later_questions_are_the_same_tokens(kit, template):
    stock = by_bytes(*MARKS, begins=True)
    tokenizer = of_ours(stock)
    stock.chat_template = chat_template(tokenizer, template)
    for messages in LATER:
        found = stock.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert list(asked(kit, tokenizer, template, messages)) == found
    for messages in TOOLS:
        found = stock.apply_chat_template(
            messages, tools=[TOOL], add_generation_prompt=True, return_dict=False
        )
        assert list(asked(kit, tokenizer, template, messages, [TOOL])) == found


@pytest.mark.parametrize("template", ["alpaca", OWN, "Q: {instruction}\nA:", "chatml"])
def test_what_an_instruction_speaks_of_is_given_beside_it(kit, template):
    stock = by_bytes(*MARKS, begins=True)
    tokenizer = of_ours(stock)
    stock.chat_template = chat_template(tokenizer, template)
    row = {"instruction": "Translate.", "input": "你好", "output": "hello", "system": "S"}
    (one,) = kit.fit("generation", [row], template=template).encode(
        kit.rows([row]), tokenizer, Purpose.ANSWER
    )
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Translate.", "input": "你好"},
    ]
    assert stock.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) == list(
        one.tokens
    )


def test_a_whole_conversation_ends_as_it_is_learnt(kit):
    stock = by_bytes(*MARKS, begins=True)
    tokenizer = of_ours(stock)
    for template in ("chatml", "llama2", "{instruction}"):
        stock.chat_template = chat_template(tokenizer, template)
        row = {"messages": [USER, SAID]}
        (one,) = kit.fit("generation", [row], template=template).encode(
            kit.rows([row]), tokenizer, Purpose.LEARN
        )
        whole = stock.apply_chat_template([USER, SAID], return_dict=False)
        assert whole[: len(one.tokens)] == list(one.tokens)
        marked = stock.apply_chat_template([USER, SAID], return_dict=True, return_assistant_tokens_mask=True)
        learnt = [
            token for token, is_learnt in zip(whole, marked["assistant_masks"], strict=True) if is_learnt
        ]
        assert stock.decode(learnt).strip().startswith(SAID["content"])


def test_the_tokenizers_own_template_stays(kit):
    assert chat_template(kit.chat("{{ messages[0].content }}!"), None) is None
    assert chat_template(kit.story, None) is not None
