"""Every test of the command line speaks English and starts without Weft's own variables; two tiny runs are shared."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from weft.cli import main


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch):
    for name in ("LC_ALL", "LC_MESSAGES", "WEFT_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("WEFT_LANG", "en")


@pytest.fixture
def weft(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function: arguments -> exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


SENTENCES = [
    f"{who} {does} {what}"
    for who in ("the cat", "a dog", "john smith", "mary", "the old man", "paris")
    for does in ("likes", "hates", "eats", "sleeps in")
    for what in ("london", "the good movie", "bad food", "germany")
]
RECIPE = """
model: {{path: {model}, max_tokens: 32}}
precision: fp32
bootstrap: 100
tasks:
  mood: {{kind: classification, train: mood.csv, dev: "mood.csv[-24:]", test: "mood.csv[:24]"}}
  match: {{kind: regression, train: match.jsonl, test: "match.jsonl[:16]"}}
  names: {{kind: tagging, train: names.conll, dev: "names.conll[-24:]"}}
stages:
  - {{name: together, strategy: lora, length: 12 steps, batch: 16, lr: 5e-3}}
  - {{name: expert, tasks: [mood, names], strategy: head, length: 4 steps, batch: 16}}
"""


@dataclass(frozen=True)
class Runs:
    """A recipe with its data, two finished runs of it, and what training the first one said."""

    root: Path
    recipe: Path
    first: Path
    second: Path
    said: str
    told: str


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Runs:
    """Return two runs that ``weft train`` made; treat them as read-only."""
    root = tmp_path_factory.mktemp("cli")
    write_data(root)
    recipe = root / "tiny.yaml"
    recipe.write_text(RECIPE.format(model=tiny_bert), encoding="utf-8")
    said, told = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_LANG", "en")
        with redirect_stdout(said), redirect_stderr(told):
            assert main(["train", str(recipe), "--run", str(root / "first")]) == 0, told.getvalue()
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            arguments = [str(recipe), "seed=1", "stages.expert.lr=1e-2", "--run", str(root / "second")]
            assert main(["train", *arguments]) == 0
    return Runs(root, recipe, root / "first", root / "second", said.getvalue(), told.getvalue())


def write_data(folder: Path) -> None:
    """Write a classification, a pair regression and a tagging file, 96 rows each."""
    with (folder / "mood.csv").open("w", encoding="utf-8", newline="") as file:
        rows = [(text, "sad" if "hates" in text or "bad" in text else "happy") for text in SENTENCES]
        csv.writer(file).writerows([("text", "label"), *rows])
    pairs = [(text, SENTENCES[(7 * i) % 96]) for i, text in enumerate(SENTENCES)]
    lines = [
        json.dumps({"text1": a, "text2": b, "score": len(set(a.split()) & set(b.split())) / 4})
        for a, b in pairs
    ]
    (folder / "match.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    places = ("paris", "london", "germany")
    tagged = ("".join(f"{w} {'B-LOC' if w in places else 'O'}\n" for w in text.split()) for text in SENTENCES)
    (folder / "names.conll").write_text("\n".join(tagged), encoding="utf-8")
