"""A little job for the tests of this folder, and what they compare."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from weft.build.catalogue import open_recipe
from weft.recipe.spec import Recipe
from weft.run import session
from weft.run.events import Event, Finished
from weft.run.folder import RunFolder

GOOD, BAD = ("good", "great", "happy"), ("bad", "poor", "sad")
NAMES = {"john": "PER", "mary": "PER", "paris": "LOC", "berlin": "LOC"}
ROWS = {"train": 40, "dev": 12, "test": 10}
HEAD = """\
seed: 3
model: {{path: {{model}}, max_tokens: 32}}
precision: {precision}
bootstrap: 100
keep: {keep}
tasks:
{tasks}
stages:
"""
TASKS = {
    "mood": "{kind: classification, train: mood.train.jsonl, dev: mood.dev.jsonl, test: mood.test.jsonl}",
    "size": "{kind: regression, train: size.train.jsonl, dev: size.dev.jsonl}",
    "names": "{kind: tagging, train: names.train.conll, dev: names.dev.conll, test: names.test.conll}",
}


def recipe_of(
    stages: str, *, tasks: Sequence[str] = ("mood", "names"), precision: str = "fp32", keep: int = 1
) -> str:
    """Return a recipe of ``stages`` for ``write_job``, which puts the model's path at ``{model}``."""
    lines = "\n".join(f"  {name}: {TASKS[name]}" for name in tasks)
    text = HEAD.format(precision=precision, keep=keep, tasks=lines) + stages
    return text.replace("{", "{{").replace("}", "}}").replace("{{model}}", "{model}")


RECIPE = recipe_of(
    """\
  - name: together
    strategy:
      - {sites: "layers[0]", train: lora, rank: 2, lr: 5e-3}
      - {sites: "layers[1]", train: full, lr: 2e-3}
    dropout: 0.1
    length: 4 steps
    batch: 16
    evaluate: 2 steps
    save: 1 steps
  - name: alone
    tasks: names
    strategy: full
    lr: 1e-3
    length: 4 steps
    batch: 16
    evaluate: 2 steps
    save: 1 steps
""",
    tasks=tuple(TASKS),
)
FAST_RECIPE = recipe_of(
    """\
  - {name: all, strategy: full, lr: 2e-3, dropout: 0.1, length: 4 steps, batch: 8, evaluate: 2 steps, save: 1 steps}
  - {name: upper, strategy: top 1, lr: 2e-3, length: 12 steps, batch: 8, evaluate: 6 steps, save: 2 steps}
  - {name: heads, strategy: head, length: 12 steps, batch: 8, evaluate: 6 steps, save: 2 steps}
""",
    precision="bf16",
)
"""Every short cut at once: bf16 twins, rows that wait, layers behind a store, a trunk at rest."""
STRATEGIES_RECIPE = recipe_of(
    """\
  - {name: late, strategy: lp-ft, lr: 2e-3, length: 6 steps, batch: 8, evaluate: 3 steps, save: 1 steps}
  - name: turns
    strategy: [{train: lisa, layers: 1, every: 2}]
    length: 6 steps
    batch: 8
    evaluate: 3 steps
    save: 1 steps
  - name: own
    strategy: [{train: lora, rank: 2, per_task: true}]
    length: 4 steps
    batch: 8
    evaluate: 2 steps
    save: 1 steps
  - name: both
    strategy:
      - {train: dora, rank: 2, sites: attention}
      - {train: adapter, size: 4, form: parallel}
      - {train: peft, method: VERA, options: {r: 4}, sites: "layers[0].ffn"}
    tasks: mood
    carry: {trunk: merge, heads: drop}
    length: 4 steps
    batch: 8
    evaluate: 2 steps
    save: 1 steps
  - name: parts
    parent: turns
    strategy: [{train: mtl-lora, rank: 2}]
    length: 3 steps
    batch: 8
    evaluate: 2 steps
    save: 1 steps
  - name: chosen
    parent: late
    strategy: [{train: hybrid-lora, rank: 2, batches: 2}]
    length: 3 steps
    batch: 8
    evaluate: 2 steps
    save: 1 steps
  - name: positions
    parent: base
    strategy: [{train: prompt, tokens: 2, per_task: true}, {train: prefix, tokens: 3, projection: 4}]
    length: 3 steps
    batch: 8
    evaluate: 2 steps
    save: 1 steps
"""
)
"""What changes within a stage, an adapter for each task, several methods at one site, one of PEFT's, virtual positions."""
CHAINS = {
    "full, then LoRA": """\
  - {name: all, strategy: full, lr: 2e-3}
  - {name: above, strategy: lora, lr: 5e-3}
""",
    "LoRA, merged, then full": """\
  - {name: light, strategy: lora, lr: 5e-3}
  - {name: whole, strategy: full, lr: 1e-3, carry: {trunk: merge}}
""",
    "an adapter frozen under a new one": """\
  - {name: sft, strategy: [{train: lora, rank: 2}], lr: 5e-3}
  - {name: above, strategy: [{train: lora, rank: 3}], lr: 5e-3, carry: {trunk: stack}}
""",
    "general, domain, task": """\
  - {name: general, strategy: full, lr: 2e-3}
  - {name: domain, strategy: lora, lr: 5e-3}
  - {name: task, tasks: mood, strategy: lora, lr: 2e-3, carry: {trunk: continue}}
""",
    "shared, then an expert for each task": """\
  - {name: shared, strategy: lora, lr: 5e-3}
  - {name: moods, parent: shared, tasks: mood, strategy: lora, lr: 5e-3, carry: {trunk: stack}}
  - {name: tags, parent: shared, tasks: names, strategy: ia3, lr: 1e-2, carry: {trunk: stack}}
""",
    "two branches averaged, then trained": """\
  - {name: shared, strategy: lora, lr: 5e-3}
  - {name: left, parent: shared, strategy: full, lr: 1e-3}
  - {name: right, parent: shared, tasks: mood, strategy: top 1, lr: 2e-3}
  - {name: soup, parent: [left, right], strategy: head, lr: 1e-3}
""",
}
"""What people run from one file."""
CHAIN_STEPS = 3


def chain(name: str) -> str:
    """Return the recipe of a chain: a few steps a stage, saved after each."""
    each = f"length: {CHAIN_STEPS} steps, batch: 8, evaluate: 2 steps, save: 1 steps"
    return recipe_of("".join(line[:-1] + f", {each}}}\n" for line in CHAINS[name].splitlines()))


STAGES = ("together", "alone")
NUM_STEPS = 4


def write_job(folder: Path, model: Path, recipe: str = RECIPE) -> Path:
    """Write data and recipe; return the recipe's path."""
    for number, (split, count) in enumerate(ROWS.items()):
        write_rows(folder / f"mood.{split}.jsonl", [mood_row(index + 100 * number) for index in range(count)])
        write_rows(folder / f"size.{split}.jsonl", [size_row(index + 100 * number) for index in range(count)])
        sentences = [names_row(index + 100 * number) for index in range(count)]
        (folder / f"names.{split}.conll").write_text("\n\n".join(sentences) + "\n", encoding="utf-8")
    path = folder / "recipe.yaml"
    path.write_text(recipe.format(model=model), encoding="utf-8")
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def mood_row(index: int) -> dict[str, Any]:
    words = GOOD if index % 3 else BAD
    return {
        "text": f"the film {index} is {words[index % len(words)]}",
        "label": "up" if index % 3 else "down",
    }


def size_row(index: int) -> dict[str, Any]:
    return {"text": f"{'big ' * (index % 5)}dog {index}", "label": (index % 5) / 4}


def names_row(index: int) -> str:
    names = list(NAMES)
    words = [names[index % 4], "works", "in", names[2 + index % 2], "the", "city", str(index)]
    return "\n".join(f"{word} {'B-' + NAMES[word] if word in NAMES else 'O'}" for word in words)


def run(
    recipe: Path | Recipe, folder: Path, *, root: Path | None = None, overwrite: bool = False
) -> list[Event]:
    """Train to the end; return the events."""
    if isinstance(recipe, Path):
        root, recipe = recipe.parent, open_recipe(recipe)
    assert root is not None
    return list(session.train(recipe, RunFolder(folder), root=root, overwrite=overwrite))


def resume(folder: Path) -> list[Event]:
    return list(session.resume(RunFolder(folder)))


def copy(folder: Path, target: Path) -> Path:
    """Return a copy of a run to be spoilt."""
    shutil.copytree(folder, target)
    return target


def report_of(events: list[Event]) -> Any:
    assert isinstance(events[-1], Finished)
    return events[-1].report


def of_kind(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def tensors(folder: Path) -> dict[str, Tensor]:
    """Return every tensor that the run hands on: of each stage's end and of the bundle."""
    homes = [*sorted(folder.glob("stages/*/final")), folder / "bundle"]
    return {
        f"{path.relative_to(folder)}:{name}": tensor
        for home in homes
        for path in sorted(home.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def differences(a: Path, b: Path) -> list[str]:
    """Return the names of tensors that are not the same bits in two runs, and of those that only one has."""
    left, right = tensors(a), tensors(b)
    assert len(left) > 50
    odd = left.keys() ^ right.keys()
    return sorted(
        odd | {name for name in left.keys() & right.keys() if not torch.equal(left[name], right[name])}
    )


def answers(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text("utf-8")
        for path in sorted(folder.glob("predictions/*/*.jsonl"))
    }


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of every file."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def flip_bit(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def until(events: Iterator[Event], is_last: Callable[[Event], bool]) -> Event:
    """Take events until ``is_last``; return that one, the rest untaken."""
    return next(event for event in events if is_last(event))
