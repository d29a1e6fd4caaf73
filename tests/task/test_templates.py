"""Formats of a name: as their models' own templates write them; prompts that a recipe writes itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from weft.task.templates import DEFAULT_TEMPLATE, FORMATS, check_template, fill

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "你好", "instruction": "你好", "input": ""},
    {"role": "assistant", "content": "hi"},
    {"role": "user", "content": "bye", "instruction": "bye", "input": ""},
]
MARKS = ("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>")
WRITTEN = {
    "alpaca": "Be kind.\n\n### Instruction:\n你好\n\n### Response:\nhi</s>\n\n### Instruction:\nbye\n\n### Response:\n",
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\nhi"
    "<|im_end|>\n<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n",
    "llama2": "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\n你好 [/INST] hi </s><s>[INST] bye [/INST]",
    "llama3": "<|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|><|start_header_id|>user<|end_header_id|>"
    "\n\n你好<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nbye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "phi3": "<|system|>\nBe kind.<|end|>\n<|user|>\n你好<|end|>\n<|assistant|>\nhi<|end|>\n<|user|>\nbye<|end|>\n"
    "<|assistant|>\n",
    "vicuna": "Be kind. USER: 你好 ASSISTANT: hi</s>USER: bye ASSISTANT:",
    "zephyr": "<|system|>\nBe kind.</s>\n<|user|>\n你好</s>\n<|assistant|>\nhi</s>\n<|user|>\nbye</s>\n<|assistant|>\n",
}
WRITTEN["qwen"] = WRITTEN["chatml"]
UNHEARD = {
    "gemma": "<start_of_turn>user\n你好<end_of_turn>\n<start_of_turn>model\nhi<end_of_turn>\n<start_of_turn>user\nbye"
    "<end_of_turn>\n<start_of_turn>model\n",
    "mistral": "[INST] 你好 [/INST] hi</s>[INST] bye [/INST]",
}


def _render(kit, name, messages, tools=()):
    known = FORMATS[name]
    return kit.chat(None, *MARKS).render(messages, known.template, tools=tools, is_open=True, end=known.end)


def test_every_format_is_written_as_its_definition_says(kit):
    assert set(WRITTEN) | set(UNHEARD) == set(FORMATS)
    for name, text in WRITTEN.items():
        assert _render(kit, name, TALK).text == text
    for name, text in UNHEARD.items():
        assert _render(kit, name, TALK[1:]).text == text
        assert _render(kit, name, TALK).text == text.replace("你好", "Be kind.\n\n你好", 1)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_marks_what_the_assistant_says_with_its_end(kit, name):
    rendered = _render(kit, name, TALK[1:])
    ((start, end),) = rendered.marks
    assert rendered.text[start:end].strip().replace(" ", "") == "hi" + (FORMATS[name].end or "</s>")


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_mark_that_the_tokenizer_has_not_is_its_own_end_token(kit, name):
    known = FORMATS[name]
    text = kit.chat(None).render(TALK[1:], known.template, is_open=True, end=known.end).text
    assert "hi</s>" in text.replace(" ", "")


@pytest.mark.parametrize(
    ("name", "file"), [("llama3", "llama3"), ("gemma", "gemma"), ("phi3", "phi3"), ("qwen", "qwen2_5")]
)
def test_formats_are_those_of_the_models(kit, name, file):
    trl = pytest.importorskip("trl")
    source = (Path(trl.__file__).parent / "chat_templates" / f"{file}.jinja").read_text(encoding="utf-8")
    talk = TALK[1:] if name in UNHEARD else TALK
    theirs = kit.chat(None, *MARKS).render(talk, source, is_open=True).text
    assert _render(kit, name, talk).text == re.sub(r"^<s>", "", theirs)


def test_qwen_writes_tools_as_qwen_does(kit):
    trl = pytest.importorskip("trl")
    source = (Path(trl.__file__).parent / "chat_templates" / "qwen2_5.jinja").read_text(encoding="utf-8")
    call = {"type": "function", "id": "1", "function": {"name": "weather", "arguments": {"city": "北京"}}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    for content in ("", "One moment."):
        talk = [
            TALK[1],
            {"role": "assistant", "content": content, "tool_calls": [call, call]},
            {"role": "tool", "content": "晴"},
            {"role": "tool", "content": "雨"},
            {"role": "assistant", "content": "done"},
            TALK[3],
        ]
        theirs = kit.chat(None, *MARKS).render(talk, source, tools=[tool], is_open=True).text
        assert _render(kit, "qwen", talk, [tool]).text == theirs


def test_alpaca_has_another_opening_with_an_input(kit):
    asked = {"role": "user", "content": "Sum\n\n1 2", "instruction": "Sum", "input": "1 2"}
    text = _render(kit, "alpaca", [asked]).text
    assert text.startswith("Below is an instruction that describes a task, paired with an input")
    assert text.endswith("### Instruction:\nSum\n\n### Input:\n1 2\n\n### Response:\n")
    bare = _render(kit, "alpaca", [{**asked, "input": ""}]).text
    assert bare.startswith("Below is an instruction that describes a task. Write")


def test_a_prompt_leaves_out_what_is_not_there():
    short = fill(DEFAULT_TEMPLATE, system="", instruction="Sing", given="")
    assert short == "### Task\nSing\n\n### Answer\n"
    whole = fill(DEFAULT_TEMPLATE, system="Be brief", instruction="Sing", given="a song")
    assert whole == "Be brief\n\n### Task\nSing\n\n### Given\na song\n\n### Answer\n"


def test_a_prompt_without_a_field_loses_nothing():
    asked = fill("Q: {instruction}\nA:", system="Be brief", instruction="Sing", given="a song")
    assert asked == "Be brief\n\nQ: Sing\n\na song\nA:"


def test_braces_in_data_are_data():
    assert fill("{instruction}", system="", instruction="{input} {x}", given="") == "{input} {x}"
    assert fill("{instruction}{input}", system="", instruction="a", given="{system}") == "a{system}"


def test_templates_are_checked():
    assert check_template("{instruction}!") == "{instruction}!"
    assert check_template("chatml") == "chatml"
    with pytest.raises(ValueError, match=r"has no \{instruction\}"):
        check_template("Answer:")
    with pytest.raises(ValueError, match=r"has \{question\}"):
        check_template("{instruction} {question}")
    with pytest.raises(ValueError, match="chatml"):
        check_template("chatlm")
