from __future__ import annotations

import ast
import json
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from weft.cli.app import COMMANDS
from weft.cli.messages import LANGUAGES, catalogue, language, say

CLI = Path(__file__).resolve().parents[2] / "src" / "weft" / "cli"
ENGLISH = catalogue("en")


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Yield every call of ``say`` in the source with its file."""
    for path in sorted(CLI.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "say":
                yield f"{path.name}:{node.lineno}", node


def literals(node: ast.expr) -> list[str]:
    """Return the texts that an argument of ``say`` may be; for an f-string, its beginning and a star."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp(body=body, orelse=other):
            return literals(body) + literals(other)
        case ast.JoinedStr(values=[ast.Constant(value=str(head)), *_]):
            return [f"{head}*"]
        case _:
            return []


def test_both_languages_have_the_same_keys_in_the_same_order():
    assert LANGUAGES == ("en", "zh")
    assert list(catalogue("en")) == list(catalogue("zh"))


def test_both_languages_have_the_same_placeholders():
    other = catalogue("zh")
    assert {key: placeholders(text) for key, text in ENGLISH.items()} == {
        key: placeholders(text) for key, text in other.items()
    }


def test_no_message_is_empty_and_chinese_is_chinese():
    for key, text in catalogue("zh").items():
        assert any("\u4e00" <= sign <= "\u9fff" for sign in text), key
    assert all(text.strip() == text and text for text in ENGLISH.values())


def test_the_files_have_no_key_twice():
    for name in LANGUAGES:
        pairs = json.loads(
            (CLI / "text" / f"{name}.json").read_text(encoding="utf-8"), object_pairs_hook=lambda found: found
        )
        assert len(pairs) == len({key for key, _ in pairs})


def test_every_key_in_the_source_exists_with_these_values():
    found = list(calls())
    assert len(found) > 20, "the source moved: this test would look at nothing"
    for where, call in found:
        keys = literals(call.args[0])
        assert keys, f"{where}: the key must be readable by this test"
        given = {keyword.arg for keyword in call.keywords}
        for key in keys:
            if key.endswith("*"):
                assert any(known.startswith(key[:-1]) for known in ENGLISH), f"{where}: {key}"
            else:
                assert key in ENGLISH, f"{where}: {key}"
                assert placeholders(ENGLISH[key]) == given, f"{where}: {key}"


def test_every_message_is_said_somewhere():
    said = [key for _, call in calls() for key in literals(call.args[0])]
    heads = tuple(key[:-1] for key in said if key.endswith("*"))
    assert [key for key in ENGLISH if key not in said and not key.startswith(heads)] == []


def test_every_command_has_a_line_of_help_and_no_other_has():
    assert [key for key in ENGLISH if key.startswith("command.")] == [f"command.{name}" for name in COMMANDS]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"WEFT_LANG": "zh"}, "zh"),
        ({"WEFT_LANG": "en", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LC_ALL": "zh_TW", "LANG": "en_US"}, "zh"),
        ({"LC_ALL": "en_US", "LANG": "zh_CN"}, "en"),
        ({"LC_MESSAGES": "zh_CN", "LANG": "en_US"}, "zh"),
        ({"LC_ALL": "", "LANG": "zh_CN"}, "zh"),
        ({"LANG": "de_DE"}, "en"),
        ({}, "en"),
    ],
)
def test_language(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("WEFT_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert language() == expected


def test_say_puts_values_in(monkeypatch: pytest.MonkeyPatch):
    assert say("error.problems", count=8) == "8 problems. Nothing was started."
    monkeypatch.setenv("WEFT_LANG", "zh")
    assert "8" in say("error.problems", count=8)
    assert say("error.problems", count=8) != "8 problems. Nothing was started."
