"""``weft init``: from data files to a commented recipe that passes ``weft check``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from weft.build.catalogue import catalogue
from weft.cli.console import err
from weft.cli.guess import Guess, group, guess
from weft.cli.messages import say
from weft.data.folder import DATA_SUFFIXES, subsets, suffix
from weft.data.sources import read
from weft.data.table import column_names
from weft.errors import RecipeError
from weft.recipe.load import loads
from weft.recipe.schema import schema
from weft.task.labels import SEPARATOR
from weft.task.registry import FAMILIES

_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./-]*")
_REFERENCE = re.compile(
    r"(.*?)((?:@\w[\w.-]*)?(?::[A-Za-z][\w.-]*)?(?:\[[^\]]*\]|#\d+)?)", re.DOTALL
)  # path, then subset, split and slice
_MAX_SHOWN = 6


@dataclass(frozen=True, slots=True)
class _Found:
    """One task of the new recipe: references by split as the recipe has them, and what was guessed from the rows."""

    name: str
    sources: Mapping[str, Sequence[str]]
    guess: Guess
    num_rows: int
    unread: Sequence[str] = ()  # columns that the task does not read


def run(
    files: Annotated[list[str], typer.Argument(help=say("init.files"), metavar="FILE...")],
    output: Annotated[Path, typer.Option("--output", "-o", help=say("init.output"))] = Path("recipe.yaml"),
    model: Annotated[str | None, typer.Option("--model", "-m", help=say("init.model"))] = None,
    is_forced: Annotated[bool, typer.Option("--force", help=say("init.force"))] = False,
) -> None:
    """Write a recipe for ``files`` and its JSON Schema beside it."""
    if output.exists() and not is_forced:
        raise RecipeError([f"{output}: must not exist yet, but does. Choose another -o, or add --force."])
    found = [_find(name, splits, output.parent) for name, splits in group(expanded(files)).items()]
    generative = next((task.name for task in found if task.guess.kind == "generation"), None)
    if generative is not None and model is None:
        raise RecipeError(
            [
                f"tasks.{generative}: must have a decoder or an encoder-decoder to generate with, but no --model is given. "
                f"Give a folder or hub id."
            ]
        )
    members = catalogue()
    schema_file = output.with_suffix(".schema.json")
    text = recipe_text(found, model=model or "minilm", schema_name=schema_file.name)
    loads(text, members, name=str(output))
    output.parent.mkdir(parents=True, exist_ok=True)
    schema_file.write_text(json.dumps(schema(members), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    output.write_text(text, encoding="utf-8")
    console = err()
    for task in found:
        console.print(say("init.guessed", name=task.name, kind=task.guess.kind, rows=f"{task.num_rows:,}"))
    name = f'"{output}"' if any(map(str.isspace, str(output))) else output
    console.print(say("init.done", file=name))


def recipe_text(tasks: Sequence[_Found], *, model: str, schema_name: str) -> str:
    """Return the recipe as commented YAML."""
    lines = [
        f"# yaml-language-server: $schema={schema_name}",
        f"# {say('init.comment.top')}",
        "",
        f"# {say('init.comment.model')}",
        f"model: {_quoted(model)}",
        "",
        "tasks:",
    ]
    for task in tasks:
        lines += _task_lines(task)
    lines += [
        "",
        "stages:",
        f"  - name: {'together' if len(tasks) > 1 else 'main'}",
        f"    # {say('init.comment.strategy')}",
        "    strategy: lora",
        f"    # {say('init.comment.length')}",
        "    length: 3 epochs",
        f"    # {say('init.comment.lr')}",
        "    # lr: 1e-4",
    ]
    if len(tasks) > 1:
        rates = ", ".join(f"{task.name}: {1 / len(tasks):.2g}" for task in tasks)
        lines += [f"    # {say('init.comment.rates')}", f"    # tasks: {{{rates}}}"]
    return "\n".join(lines) + "\n"


def _task_lines(task: _Found) -> list[str]:
    counts = [f"{label} {count:,}" for label, count in task.guess.counts.items()]
    seen = ", ".join(counts[:_MAX_SHOWN]) + (", ..." if len(counts) > _MAX_SHOWN else "")
    note = say("init.comment.rows", rows=f"{task.num_rows:,}") + (f": {seen}" if seen else "")
    lines = [f"  # {' '.join(note.split())}"]
    if task.unread:
        unread = ", ".join(task.unread[:_MAX_SHOWN]) + (", ..." if len(task.unread) > _MAX_SHOWN else "")
        lines.append(f"  # {' '.join(say('init.comment.unread', columns=unread).split())}")
    lines += [f"  {task.name}:", f"    kind: {task.guess.kind}"]
    lines += [f"    {key}: {json.dumps(value)}" for key, value in task.guess.options.items()]
    for split in ("train", "dev", "test"):
        sources = [_quoted(source) for source in task.sources.get(split, ())]
        if sources:
            lines.append(
                f"    {split}: {sources[0] if len(sources) == 1 else '[' + ', '.join(sources) + ']'}"
            )
        elif split == "dev":
            lines.append(f"    # {say('init.comment.dev')}")
    return lines


def _find(name: str, splits: Mapping[str, Sequence[str]], folder: Path) -> _Found:
    files = splits.get("train")
    if not files:
        other = next(iter(splits.values()))[0]
        raise RecipeError(
            [f"tasks.{name}: must have training data, but {other} is alone. Give its training file too."]
        )
    rows = [row for file in files for row in read(file, root=Path()).rows]
    guessed = guess(rows, what=files[0])
    spec = FAMILIES[guessed.kind].spec_type.model_validate(
        {"kind": guessed.kind, "train": files, **guessed.options}
    )
    columns = FAMILIES[guessed.kind].fit(name, spec, rows).config()["columns"].values()
    read_ = {part for column in columns if column for part in column.split(SEPARATOR)}
    unread = [column for column in column_names(rows) if column not in read_]
    sources = {split: [relative(file, folder) for file in group_] for split, group_ in splits.items()}
    return _Found(name, sources, guessed, len(rows), unread)


def expanded(files: Sequence[str]) -> list[str]:
    """Return ``files`` with each folder replaced by what is in it: data files, or splits of a saved set or of subsets."""
    result: list[str] = []
    for file in files:
        folder = Path(file)
        splits, single = folder / "dataset_dict.json", folder / "state.json"
        if splits.is_file():
            result += [
                f"{file}:{split}" for split in json.loads(splits.read_text(encoding="utf-8"))["splits"]
            ]
        elif folder.is_dir() and not single.is_file():
            inside = [str(path) for path in sorted(folder.iterdir()) if suffix(path) in DATA_SUFFIXES]
            named = [f"{file}@{name}:{split}" for name, splits in subsets(folder).items() for split in splits]
            result += inside or named or [file]
        else:
            result.append(file)
    return result


def relative(file: str, folder: Path) -> str:
    """Return the reference ``file`` as seen from ``folder``; hub ids and absolute paths stay."""
    match = _REFERENCE.fullmatch(file)
    assert match is not None, file  # the pattern takes every text
    path, rest = match.groups()
    if Path(path).is_absolute() or not Path(path).exists():
        return file
    return Path(os.path.relpath(path, folder)).as_posix() + rest


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
