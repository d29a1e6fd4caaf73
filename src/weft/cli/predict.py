"""``weft predict``: answers of a bundle to sentences, standard input or files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from weft.cli.messages import say
from weft.core.example import Answer, Dropped, Row
from weft.data.sources import read
from weft.errors import DataError, nearest
from weft.evaluate.ask import Asked, ask, questions
from weft.export.bundle import Bundle, open_bundle

_BUDGET_TOKENS = 8192
_CHUNK_ROWS = 2048  # answered and written before the next are read from standard input


def run(
    bundle: Annotated[Path, typer.Argument(help=say("arg.bundle"))],
    inputs: Annotated[list[str], typer.Argument(help=say("predict.inputs"))],
    task: Annotated[list[str] | None, typer.Option("--task", help=say("predict.task"))] = None,
    pair: Annotated[str | None, typer.Option("--pair", help=say("predict.pair"))] = None,
    base: Annotated[Path | None, typer.Option("--base", help=say("arg.base"))] = None,
    is_json: Annotated[bool, typer.Option("--json", help=say("predict.json"))] = False,
) -> None:
    """Print the answers of every task, or of those named, in the order of the inputs."""
    opened = open_bundle(bundle, base=base)
    asker = _Asker(opened, _chosen(opened, task), pair)
    for name in inputs:
        if name == "-":
            for texts in _chunks(sys.stdin):
                _write(texts, asker.texts(texts), is_json=is_json)
        elif Path(name.partition("[")[0]).exists():
            rows = read(name, root=Path.cwd()).rows
            _write([row.where for row in rows], asker.rows(rows), is_json=True)
        else:
            _write([name], asker.texts([name]), is_json=is_json)


@dataclass(frozen=True, slots=True)
class _Asker:
    bundle: Bundle
    names: tuple[str, ...]
    pair: str | None

    def texts(self, texts: Sequence[str]) -> list[Asked]:
        tasks = {name: self.bundle.tasks[name] for name in self.names}
        return self._ask(questions(tasks, texts, self.pair))

    def rows(self, rows: Sequence[Row]) -> list[Asked]:
        return self._ask(dict.fromkeys(self.names, rows))

    def _ask(self, rows: dict[str, Any]) -> list[Asked]:
        opened = self.bundle
        return ask(opened.network, opened.tasks, opened.tokenizer, rows, budget=_BUDGET_TOKENS, dtype=opened.dtype)


def _chosen(bundle: Bundle, names: list[str] | None) -> tuple[str, ...]:
    for name in names or ():
        if name not in bundle.tasks:
            raise DataError(f"--task {name}: must be a task of the bundle. {nearest(name, bundle.tasks)}")
    return tuple(names or bundle.tasks)


def _chunks(lines: TextIO) -> Iterator[list[str]]:
    """Yield the lines without blank ones, as many at a time as are answered together."""
    chunk: list[str] = []
    for line in lines:
        if line.strip():
            chunk.append(line.rstrip("\r\n"))
        if len(chunk) == _CHUNK_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _write(inputs: Sequence[str], asked: Sequence[Asked], *, is_json: bool) -> None:
    for given, answers in zip(inputs, asked, strict=True):
        if is_json:
            values = {name: _json(answer) for name, answer in answers.items()}
            sys.stdout.write(json.dumps({"input": given, "answers": values}, ensure_ascii=False) + "\n")
            continue
        sys.stdout.write(f"{given}\n")
        width = max(len(name) for name in answers)
        for name, answer in answers.items():
            sys.stdout.write(f"  {name:{width}}  {_words(answer)}\n")


def _json(answer: Answer | Dropped) -> dict[str, Any]:
    return {"dropped": answer.reason} if isinstance(answer, Dropped) else answer.to_json()


def _words(answer: Answer | Dropped) -> str:
    """Return an answer as one line for people."""
    if isinstance(answer, Dropped):
        return say("predict.dropped", reason=answer.reason)
    if answer.text is not None:
        return answer.text
    if answer.spans is not None:
        return ", ".join(f"{span['text']} [{span['type']}]" for span in answer.spans) or say("env.none")
    if answer.value is not None:
        return f"{answer.value:.3f}"
    if isinstance(answer.label, str) and answer.probabilities:
        return f"{answer.label} ({answer.probabilities[answer.label]:.1%})"
    return ", ".join(answer.label or ()) or say("env.none")
