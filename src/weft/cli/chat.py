"""``weft chat``: talk with a task that generates, on a terminal or through pipes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from weft.cli.console import err
from weft.cli.messages import say
from weft.errors import WeftError
from weft.evaluate.converse import Conversation, Said, conversing
from weft.evaluate.telling import told
from weft.export.bundle import open_bundle

_PROMPT = "> "


def run(
    bundle: Annotated[Path, typer.Argument(help=say("arg.bundle"))],
    task: Annotated[str | None, typer.Option("--task", "-t", help=say("chat.task"))] = None,
    base: Annotated[Path | None, typer.Option("--base", help=say("arg.base"))] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help=say("arg.set"))] = None,
) -> None:
    """Answer line by line, each with all that was said before."""
    opened = open_bundle(bundle, base=base)
    chosen = conversing(told(opened.tasks, settings or ()), task)
    talk = Conversation(opened.network, chosen, opened.tokenizer, opened.dtype)
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    _Chat(talk, is_terminal=is_terminal).run(_typed() if is_terminal else iter(sys.stdin))


@dataclass(slots=True)
class _Chat:
    talk: Conversation
    is_terminal: bool

    def run(self, lines: Iterator[str]) -> None:
        if self.is_terminal:
            err().print(say("chat.welcome"))
        for line in lines:
            text = line.strip()
            if text == "/quit":
                return
            if text and not self._command(text):
                self._answer(text)

    def _command(self, text: str) -> bool:
        """Do what a command says; return whether ``text`` is one."""
        word, _, rest = text.partition(" ")
        match word:
            case "/reset":
                self.talk.messages = []
                self._note(say("chat.reset"))
            case "/system":
                self.talk.system, self.talk.messages = rest.strip(), []
                self._note(say("chat.system") if rest.strip() else say("chat.no_system"))
            case "/help":
                err().print(say("chat.help"))
            case _:
                return False
        return True

    def _note(self, text: str) -> None:
        if self.is_terminal:
            err().print(text)

    def _answer(self, text: str) -> None:
        if not self.is_terminal:
            said = self.talk.say(text, _say_nothing)
            _write(said.text.replace("\\", "\\\\").replace("\n", "\\n") + "\n")
            self._remark(said)
            return
        try:
            said = self.talk.say(text, _write)
        except WeftError as error:  # a message that cannot be answered ends no conversation
            err().print(str(error))
            return
        _write("\n")
        self._remark(said)

    def _remark(self, said: Said) -> None:
        if not said.is_whole:
            if not self.is_terminal:
                raise KeyboardInterrupt
            err().print(say("chat.stopped"))
        if said.num_cut:
            err().print(say("chat.cut", count=said.num_cut))


def _typed() -> Iterator[str]:
    """Yield lines of the terminal to its end; Ctrl-C drops the line that is being typed."""
    with suppress(ImportError):
        import_module("readline")  # gives `input` its editing and history
    while True:
        try:
            yield input(_PROMPT)
        except EOFError:
            _write("\n")
            return
        except KeyboardInterrupt:
            _write("\n")
            err().print(say("chat.how_to_leave"))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say_nothing(_piece: str) -> None:
    return
