"""``weft chat`` through pipes and on a terminal."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from weft.cli import main
from weft.evaluate.converse import Conversation
from weft.export.bundle import open_bundle

Weft = Callable[..., tuple[int, str, str]]
RECIPE = """\
model: {{path: {model}, max_tokens: 96}}
precision: fp32
bootstrap: 100
tasks:
  reply: {{kind: generation, train: talk.jsonl, dev: talk.jsonl, max_new_tokens: 8}}
stages:
  - {{name: one, strategy: "top 1", length: 1 steps, batch: 4}}
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, stories260k: Path) -> Path:
    """Return a run whose bundle goes on with stories."""
    home = tmp_path_factory.mktemp("chat")
    rows = [{"instruction": f"tell {word}", "output": f"a {word}"} for word in ("cat", "dog", "sun", "tree")]
    (home / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (home / "recipe.yaml").write_text(RECIPE.format(model=stories260k), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.StringIO())
        patch.setattr(sys, "stderr", io.StringIO())
        assert main(["train", str(home / "recipe.yaml"), "--run", str(home / "run")]) == 0
    return home / "run"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def expected(bundle: Path, *texts: str, system: str = "") -> list[str]:
    """Return the answers to ``texts`` by hand: each through the whole conversation before it."""
    opened = open_bundle(bundle)
    talk = Conversation(opened.network, opened.tasks["reply"], opened.tokenizer, opened.dtype, system)  # pyright: ignore[reportArgumentType]
    return [talk.say(text, lambda _piece: None).text for text in texts]


def test_through_a_pipe_one_line_is_one_answer_and_nothing_else(weft: Weft, bundle: Path, typed):
    typed("tell cat\n\ntell 狗\n/reset\ntell cat\n/quit\ntell sun\n")
    code, out, err = weft("chat", str(bundle))
    assert (code, err) == (0, "")
    first, second, again = out.splitlines()
    one, two = expected(bundle, "tell cat", "tell 狗")
    assert [first, second, again] == [text.replace("\n", "\\n") for text in (one, two, one)]


def test_a_system_message_stands_before_all(weft: Weft, bundle: Path, typed):
    typed("/system be a cat\nhello\n/system\nhello\n")
    code, out, _ = weft("chat", str(bundle))
    with_system = expected(bundle, "hello", system="be a cat")
    assert (code, out.splitlines()) == (
        0,
        [text.replace("\n", "\\n") for text in (*with_system, *expected(bundle, "hello"))],
    )


def test_answers_as_told(weft: Weft, bundle: Path, typed):
    typed("hello\n")
    _, out, _ = weft("chat", str(bundle), "--set", "reply.max_new_tokens=1")
    assert expected(bundle, "hello")[0].startswith(out.strip())
    typed("hello\n")
    assert weft("chat", str(bundle), "-t", "replay")[0] == 5


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch, lines: Iterable[str | type[BaseException]]) -> None:
    """Let ``input`` give ``lines``, or raise them."""
    given = iter([*lines, EOFError])

    def answer(_prompt: str) -> str:
        line = next(given)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stderr", io.StringIO())


def test_on_a_terminal_answers_come_as_they_are_made(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    on_terminal(monkeypatch, ["tell cat", KeyboardInterrupt, "/help", "/reset", "tell cat"])
    told: list[str] = []
    say = Conversation.say

    def noted(self: Conversation, text: str, heard: Any) -> Any:
        return say(self, text, lambda piece: (told.append(piece), heard(piece)))

    monkeypatch.setattr(Conversation, "say", noted)
    assert main(["chat", str(bundle)]) == 0
    (one,) = expected_quietly(monkeypatch, bundle, say)
    out, err = sys.stdout.getvalue(), sys.stderr.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert out == f"{one}\n\n{one}\n\n"
    assert len(told) > 2
    assert "".join(told) == one + one
    assert (
        err.index("Ctrl-D or /quit ends. /reset")
        < err.index("Ctrl-D or /quit ends.\n")
        < err.index("Forgotten.")
    )


def expected_quietly(monkeypatch: pytest.MonkeyPatch, bundle: Path, say: Any) -> list[str]:
    monkeypatch.setattr(Conversation, "say", say)
    return expected(bundle, "tell cat")


@pytest.mark.parametrize(("language", "words"), [("en", "(stopped)"), ("zh", "（已中断）")])
def test_ctrl_c_stops_the_answer_and_goes_on(bundle: Path, monkeypatch: pytest.MonkeyPatch, language, words):
    monkeypatch.setenv("WEFT_LANG", language)
    on_terminal(monkeypatch, ["tell cat", "tell dog"])
    say, heard = Conversation.say, []

    def impatient(self: Conversation, text: str, listener: Any) -> Any:
        def hear(piece: str) -> None:
            listener(piece)
            heard.append(piece)
            if len(heard) == 2:
                raise KeyboardInterrupt

        return say(self, text, hear)

    monkeypatch.setattr(Conversation, "say", impatient)
    assert main(["chat", str(bundle)]) == 0
    lines = sys.stdout.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    assert lines[0] == "".join(heard[:2]).strip("\n")
    assert len(lines) >= 2
    assert words in sys.stderr.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_export_says_how_far_its_chat_template_goes(weft: Weft, bundle: Path, tmp_path: Path):
    code, out, _ = weft("export", str(bundle), str(tmp_path / "a"), "--json")
    assert (code, [one["chat_template"] for one in json.loads(out)]) == (0, ["first question"])
    code, out, _ = weft("export", str(bundle), str(tmp_path / "b"))
    assert code == 0
    assert "its chat template gives the tokens of training for a first question" in " ".join(out.split())
