"""Tools: definitions and calls as data sets write them, as text, and read back from what was generated."""

from __future__ import annotations

import json

import pytest

from weft.task.toolcalls import Call, as_paragraph, as_result, as_text, parse_calls, read_calls, read_tools

FLAT = {"name": "now", "description": "时间", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    "value", [[FLAT], json.dumps([FLAT]), FLAT, [{"type": "function", "function": FLAT}]]
)
def test_definitions_become_openais(value):
    assert read_tools(value) == ({"type": "function", "function": FLAT},)


def test_no_tools_and_wrong_ones():
    assert read_tools(None) == read_tools("") == read_tools([]) == read_tools("[]") == ()
    assert read_tools("a tool") == read_tools(["a"]) == "tools are not a list of definitions"


def test_arguments_are_a_mapping_where_they_can_be():
    assert read_calls({"name": "f", "arguments": '{"a": 1}'}) == (Call("f", {"a": 1}),)
    assert read_calls({"name": "f", "parameters": {"a": 1}, "id": "x"}) == (Call("f", {"a": 1}, "x"),)
    assert read_calls({"name": "f", "arguments": "free text"}) == (Call("f", "free text"),)
    assert read_calls([{"name": "f"}, {"no": 1}]) == "tool call without a name"
    assert read_calls(None) == read_calls("") == ()


@pytest.mark.parametrize(
    "calls", [(Call("now", {}),), (Call("f", {"城市": "北京", "n": [1, 2]}), Call("g", {"x": None}))]
)
def test_calls_written_as_text_are_read_back(calls):
    wanted = [call.to_json() for call in calls]
    assert parse_calls(as_text(calls)) == wanted
    assert parse_calls(f"好的。\n{as_text(calls)}\nThat is all.") == wanted


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}', [{"name": "f", "arguments": {"a": 1}}]),
        ('<functioncall> {"name": "f", "arguments": \'{}\'} ', []),
        ('<functioncall> {"name": "f", "arguments": "{}"} ', [{"name": "f", "arguments": {}}]),
        ('[TOOL_CALLS] [{"name": "f", "arguments": {}}]', [{"name": "f", "arguments": {}}]),
        ('<|python_tag|>{"name": "f", "parameters": {"a": 2}}', [{"name": "f", "arguments": {"a": 2}}]),
        ('{"name": "f", "arguments": {}}', [{"name": "f", "arguments": {}}]),
        ('{"name": "Tim"}', []),
        ('{"name": "f", "arguments": {}} and more', []),
        ("<tool_call>broken", []),
        ("f()", []),
        ("", []),
        ("[1, 2]", []),
        ("[" * 5000, []),
    ],
)
def test_what_is_generated_is_read_leniently(text, calls):
    assert parse_calls(text) == calls


def test_tools_as_text_say_how_they_are_called():
    text = as_paragraph(read_tools([FLAT]))
    assert '"时间"' in text
    assert parse_calls(
        text[text.index("<tool_call>") :].replace("<name>", '"f"').replace("<object>", "{}")
    ) == [{"name": "f", "arguments": {}}]
    assert as_result("晴") == "<tool_response>\n晴\n</tool_response>"
