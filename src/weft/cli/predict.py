"""``weft predict``: answers of a bundle to sentences, standard input or files."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TextIO

import typer

from weft.cli.console import err
from weft.cli.messages import say
from weft.core.example import Answer, Dropped
from weft.data.folder import DATA_SUFFIXES, suffix
from weft.data.reference import parse
from weft.data.sources import read
from weft.errors import DataError, nearest
from weft.evaluate.ask import Asked, Questions, ask, from_rows, from_texts, only_named
from weft.evaluate.telling import told
from weft.export.bundle import Bundle, is_bundle, open_bundle
from weft.export.fleet import Fleet, Member, open_fleet
from weft.task.base import Task

_BUDGET_TOKENS = 8192
_READ_BYTES = 2**20
_TASK = "task"  # the role of a column that says which task a row is for


def run(
    inputs: Annotated[list[str], typer.Argument(metavar="BUNDLE INPUTS...", help=say("predict.inputs"))],
    task: Annotated[list[str] | None, typer.Option("--task", "-t", help=say("predict.task"))] = None,
    pair: Annotated[str | None, typer.Option("--pair", help=say("predict.pair"))] = None,
    column: Annotated[list[str] | None, typer.Option("--column", help=say("predict.column"))] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help=say("predict.output"))] = None,
    base: Annotated[Path | None, typer.Option("--base", help=say("arg.base"))] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help=say("arg.set"))] = None,
    is_json: Annotated[bool, typer.Option("--json", help=say("predict.json"))] = False,
) -> None:
    """Print the answers of every task, or of those named, in the order of the inputs."""
    bundles, questions = _split(inputs)
    given = [_Given.of(text) for text in questions]
    _refuse_idle(pair, column, given)
    opened = _open(bundles, base)
    renamed = _renamed(column)
    by = renamed.pop(_TASK, None)
    tasks = told(opened.tasks, settings or ())
    asker = _Asker(opened, tasks, _chosen(opened, task), bool(task), pair, renamed=renamed, by=by)
    _refuse_overwriting(output, given)
    with _opened(output) as out:
        for one in given:
            for names, asked in _answered(asker, one):
                _write(out, names, asked, is_json=is_json or one.is_file)
                out.flush()


def _split(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the bundles, of which the first argument is one, and what is to be answered.

    Raises:
        DataError: there are bundles only.
    """
    number = 1 + next((at for at, text in enumerate(inputs[1:]) if _member(text) is None), len(inputs) - 1)
    if number == len(inputs):
        raise DataError(
            f"{inputs[-1]}: after the bundles there must be something to answer, but there is nothing. Add a "
            f"sentence, a file, or - for standard input."
        )
    return [*inputs[:number]], [*inputs[number:]]


def _member(text: str) -> Member | None:
    """Return the bundle that ``text`` names, as a folder or as NAME=folder; None where it names none."""
    if is_bundle(Path(text)):
        return Member(Path(text))
    prefix, _, folder = text.partition("=")
    return Member(Path(folder), prefix) if folder and is_bundle(Path(folder)) else None


def _open(names: Sequence[str], base: Path | None) -> Bundle | Fleet:
    members = [_member(name) or Member(Path(name)) for name in names]
    if len(members) == 1 and members[0].prefix is None:
        return open_bundle(members[0].folder, base=base)
    return open_fleet(members, base=base)


@dataclass(frozen=True, slots=True)
class _Given:
    """One input: a file's reference, ``-``, or a sentence."""

    text: str
    file: Path | None = None
    is_file: bool = False

    @classmethod
    def of(cls, text: str) -> _Given:
        """Return what ``text`` means. What looks like a file is one, so that a slip is not answered as a sentence.

        Raises:
            DataError: it looks like a file, but there is none.
        """
        if text == "-":
            return cls(text)
        try:
            path = parse(text, root=Path.cwd()).path
        except DataError:
            path = None
        if path is None and _is_like_file(text):
            raise DataError(_reason(text))
        return cls(text, path, is_file=path is not None)


def _is_like_file(text: str) -> bool:
    is_path = "/" in text or not any(map(str.isspace, text))
    return is_path and suffix(Path(text.partition("[")[0])) in DATA_SUFFIXES


def _reason(reference: str) -> str:
    try:
        parse(reference, root=Path.cwd())
    except DataError as error:
        return str(error)
    return f"{reference}: must be a file that exists, but is not. Correct the path."


@dataclass(slots=True)
class _Asker:
    bundle: Bundle | Fleet
    tasks: Mapping[str, Task]
    names: tuple[str, ...]
    is_named: bool  # whether the user named the tasks: then each of them must be able to answer
    pair: str | None
    renamed: Mapping[str, str]
    by: str | None  # the column of a file that names each row's task
    said: set[str] = field(default_factory=set[str])

    def texts(self, texts: Sequence[str]) -> list[Asked]:
        return self._ask(from_texts(self._tasks, texts, self.pair))

    def file(self, reference: str) -> tuple[list[str], list[Asked]]:
        rows = read(reference, root=Path.cwd()).rows
        questions = from_rows(self._tasks, rows, self.renamed, what=reference)
        if self.by is not None:
            questions = only_named(questions, rows, self.by, tasks=self._tasks, what=reference)
        return [row.where for row in rows], self._ask(questions)

    @property
    def _tasks(self) -> dict[str, Any]:
        return {name: self.tasks[name] for name in self.names}

    def _ask(self, questions: Questions) -> list[Asked]:
        if questions.left_out and (self.is_named or not questions.rows):
            raise DataError("\n".join(questions.left_out.values()))
        for reason in sorted(set(questions.left_out.values()) - self.said):
            err().print(say("predict.left_out", reason=reason))
        self.said.update(questions.left_out.values())
        opened = self.bundle
        rows = questions.rows
        return ask(
            opened.network, self.tasks, opened.tokenizer, rows, budget=_BUDGET_TOKENS, dtype=opened.dtype
        )


def _answered(asker: _Asker, given: _Given) -> Iterator[tuple[list[str], list[Asked]]]:
    """Yield inputs and answers, piece by piece where they come through a pipe."""
    if given.is_file:
        yield asker.file(given.text)
    elif given.text == "-":
        for lines in _chunks(sys.stdin.buffer):
            yield lines, asker.texts(lines)
    else:
        yield [given.text], asker.texts([given.text])


def _chunks(stream: BinaryIO) -> Iterator[list[str]]:
    """Yield the lines that are there, without blank ones, as soon as they are: a slow pipe is answered line by line."""
    rest, number = b"", 0
    while block := stream.read1(_READ_BYTES):  # pyright: ignore[reportAttributeAccessIssue]
        *lines, rest = (rest + block).split(b"\n")
        if chunk := _decoded(lines, number):
            yield chunk
        number += len(lines)
    if chunk := _decoded([rest], number):
        yield chunk


def _decoded(lines: Sequence[bytes], start: int) -> list[str]:
    texts: list[str] = []
    for number, line in enumerate(lines, start=start + 1):
        try:
            texts.append(line.decode("utf-8-sig" if number == 1 else "utf-8").strip())
        except UnicodeDecodeError as error:
            raise DataError(f"standard input, line {number}: must be UTF-8, but {error.reason}.") from error
    return [text for text in texts if text]


def _chosen(bundle: Bundle | Fleet, names: list[str] | None) -> tuple[str, ...]:
    for name in names or ():
        if name not in bundle.tasks:
            raise DataError(
                f"--task {name}: must be a task of the bundle, but is not. {nearest(name, bundle.tasks)}"
            )
    return tuple(dict.fromkeys(names or bundle.tasks))


def _renamed(columns: list[str] | None) -> dict[str, str]:
    renamed: dict[str, str] = {}
    for argument in columns or ():
        role, _, column = argument.partition("=")
        if not role or not column:
            raise DataError(
                f"--column {argument}: must be role=column, but is not. Example: --column text=review."
            )
        renamed[role] = column
    return renamed


def _refuse_idle(pair: str | None, columns: list[str] | None, given: Sequence[_Given]) -> None:
    """Raise a DataError where an option is about sentences, or about files, and there are none."""
    if pair is not None and all(one.is_file for one in given):
        raise DataError(
            f"--pair: must go with a sentence, but {given[0].text} is a file. Name its column: --column pair=<column>."
        )
    if columns and not any(one.is_file for one in given):
        raise DataError(
            f"--column {columns[0]}: must go with a file, but none is given. Leave it out, or name a file."
        )


def _refuse_overwriting(output: Path | None, given: Sequence[_Given]) -> None:
    for one in given:
        if output is not None and one.file is not None and output.resolve() == one.file.resolve():
            raise DataError(
                f"{output}: answers must not replace their questions, but would. Choose another -o."
            )


@contextmanager
def _opened(output: Path | None) -> Generator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    with output.open("w", encoding="utf-8") as file:
        yield file


def _write(out: TextIO, inputs: Sequence[str], asked: Sequence[Asked], *, is_json: bool) -> None:
    for given, answers in zip(inputs, asked, strict=True):
        if is_json:
            values = {name: _json(answer) for name, answer in answers.items()}
            out.write(json.dumps({"input": given, "answers": values}, ensure_ascii=False) + "\n")
            continue
        out.write(f"{given}\n")
        width = max(len(name) for name in answers)
        for name, answer in answers.items():
            out.write(f"  {name:{width}}  {_words(answer)}\n")


def _json(answer: Answer | Dropped) -> dict[str, Any]:
    return {"dropped": answer.reason} if isinstance(answer, Dropped) else answer.to_json()


def _words(answer: Answer | Dropped) -> str:
    """Return an answer as one line for people."""
    if isinstance(answer, Dropped):
        return say("predict.dropped", reason=answer.reason)
    if answer.label is not None:
        labels = _label_words(answer) + ("" if answer.value is None else f", {answer.value:.2f}")
        return labels if answer.text is None else f"{labels}: {answer.text}"
    if answer.text is not None:
        return answer.text.replace("\n", "\n    ") or say("env.none")
    if answer.spans is not None:
        return ", ".join(f"{span['text']} [{span['type']}]" for span in answer.spans) or say("env.none")
    if answer.tags is not None:
        return " ".join(answer.tags)
    return say("env.none") if answer.value is None else f"{answer.value:.3f}"


def _label_words(answer: Answer) -> str:
    labels = [answer.label] if isinstance(answer.label, str) else answer.label or []
    shares = answer.probabilities or {}
    texts = [f"{label} ({shares[label]:.1%})" if label in shares else label for label in labels]
    return ", ".join(texts) or say("env.none")
