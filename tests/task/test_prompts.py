"""Rows of every format that instruction data comes in, as conversations, translations or texts."""

from __future__ import annotations

import pytest

from weft.core.example import Row
from weft.errors import DataError
from weft.task.conversation import Conversation, assistant, user
from weft.task.prompts import ROLES, find_columns, plain_text, read

TALK = [{"role": "user", "content": "Say red"}, {"role": "assistant", "content": "red"}]
TOOL = {"type": "function", "function": {"name": "now"}}


def _read(values, **given):
    row = Row(values, "f:1")
    return read(row, find_columns("t", given, [row]))


@pytest.mark.parametrize(
    "values",
    [
        {"instruction": "Say red", "input": "", "output": "red"},
        {"prompt": "Say red", "completion": " red"},
        {"query": "Say red", "response": "red", "history": []},
        {"question": "Say red", "answer": "red"},
        {"question": "Say red", "answers": ["red", "Red."]},
        {"instruction": "Say red", "output": ("red",)},
        {"source": "Say red", "target": "red"},
        {"article": "Say red", "highlights": "red"},
        {"document": "Say red", "summary": "red"},
        {"dialogue": "Say red", "summary": "red"},
        {"text": "Say red", "summary": "red"},
        {"translation": {"en": "Say red", "zh": "red"}},
        {"messages": TALK},
        {"conversations": [{"from": "human", "value": "Say red"}, {"from": "gpt", "value": "red"}]},
        {"conversation": [{"human": "Say red", "assistant": "red"}]},
        {"prompt": TALK[:1], "completion": TALK[1:]},
        {"prompt": TALK[:1], "completion": "red"},
        {"指令": "Say red", "输出": "red"},
        {"instruction": "Say red", "input": "", "output": "red", "text": "Below is an instruction ..."},
    ],
)
def test_every_format_gives_the_same_conversation(values):
    assert _read(values) == Conversation("", (user("Say red"), assistant("red")))


def test_alpaca_with_all_its_columns():
    row = {
        "instruction": "译",
        "input": "cat",
        "output": "猫",
        "system": "S",
        "history": [["a", "b"]],
        "tools": [TOOL],
    }
    turns = (user("a"), assistant("b", 0.0), user("译", given="cat"), assistant("猫"))
    assert _read(row) == Conversation("S", turns, (TOOL,))


def test_sharegpt_with_system_and_tools_of_their_own_columns():
    row = {"conversations": TALK, "system": "S", "tools": '[{"name": "now"}]'}
    assert _read(row) == Conversation("S", (user("Say red"), assistant("red")), (TOOL,))
    assert _read({**row, "tools": "x"}) == "tools are not a list of definitions"


def test_a_prompt_of_messages_is_context():
    before = [*TALK, {"role": "user", "content": "Say blue"}]
    found = _read({"prompt": before, "completion": [{"role": "assistant", "content": "blue"}]})
    assert [turn.weight for turn in found.turns] == [1.0, 0.0, 1.0, 1.0]
    assert _read({"prompt": before, "completion": []}).is_answered is False
    assert _read({"prompt": [{"role": "x"}], "completion": "red"}) == "unknown role"


def test_translations_go_the_way_of_the_data_or_of_the_recipe():
    row = {"translation": {"en": "red", "zh": "红", "fr": "rouge"}}
    assert _read(row).turns == (user("red"), assistant("红"))
    back = _read(row, instruction="translation.zh", output="translation.en")
    assert back.turns == (user("红"), assistant("red"))
    assert _read(row, output="translation.fr").turns == (user("red"), assistant("rouge"))
    with pytest.raises(DataError, match="holds en, zh, fr, not de"):
        _read(row, output="translation.de")
    with pytest.raises(DataError, match="must hold two languages"):
        _read({"translation": "red"})


def test_plain_text_is_a_text_and_not_a_question():
    for column in ("text", "content", "正文"):
        row = Row({column: " 床前明月光 "}, "f:1")
        columns = find_columns("t", {}, [row])
        assert (columns["text"], columns["instruction"]) == (column, "prompt")
        assert plain_text(row, columns) == " 床前明月光 "
    assert (
        find_columns("t", {"text": "lyrics"}, [Row({"lyrics": "x", "output": "y"}, "f:1")])["text"]
        == "lyrics"
    )
    assert plain_text(Row({"text": "  "}, "f:1"), {"text": "text"}) == ""


def test_columns_of_the_recipe_win():
    row = {"messages": TALK, "q": "Say blue", "a": "blue"}
    assert _read(row, instruction="q", output="a").turns == (user("Say blue"), assistant("blue"))
    assert _read({"chat": TALK, "text": "x"}, messages="chat").turns[0] == user("Say red")
    assert set(find_columns("t", {}, [Row(row, "f:1")])) == set(ROLES)


def test_what_is_missing_is_said():
    assert _read({"instruction": " ", "output": "x"}) == "empty instruction"
    assert (
        _read({"instruction": "x", "output": "y", "history": "z"})
        == "history is not pairs of question and answer"
    )
    assert not _read({"instruction": "x", "output": "  "}).is_answered
    with pytest.raises(DataError, match=r"tasks\.t: must have a column for output"):
        _read({"instruction": "x", "unrelated": 1})


@pytest.mark.parametrize("column", ["images", "videos", "audios"])
def test_rows_with_files_are_refused(column):
    row = {"instruction": "<image> what?", "output": "a cat"}
    assert _read({**row, column: ["a.png"]}) == "images, audio and video cannot be read"
    assert _read({**row, column: []}).is_answered
