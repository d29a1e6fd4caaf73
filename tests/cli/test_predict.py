"""``weft predict``: sentences, pipes and files, and what becomes of tasks that cannot take them."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from weft.cli import main
from weft.cli.predict import _chunks, _words
from weft.core.example import Answer
from weft.errors import DataError

Weft = Callable[..., tuple[int, str, str]]
Runs = Any  # tests/cli/conftest.py
SENTENCE = "mary hates bad food"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Return a function that puts bytes on standard input."""

    def put(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return put


def answers(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_a_sentence_is_answered_by_the_tasks_that_take_it(weft: Weft, runs: Runs):
    code, out, err = weft("predict", str(runs.first), SENTENCE)
    assert code == 0
    head, *lines = out.splitlines()
    assert head == SENTENCE
    assert [line.split()[0] for line in lines] == ["mood", "names"]
    assert lines[0].split()[1] in ("happy", "sad")
    assert lines[0].endswith("%)")
    assert err.startswith("left out: match: the task takes a pair of texts")


def test_a_pair_is_answered_by_the_tasks_on_pairs(weft: Weft, runs: Runs):
    code, out, err = weft("predict", str(runs.first), SENTENCE, "--pair", "a dog eats london", "--json")
    (found,) = answers(out)
    assert (code, list(found["answers"])) == (0, ["match"])
    assert isinstance(found["answers"]["match"]["value"], float)
    assert "left out: mood" in err


def test_a_named_task_that_cannot_answer_is_an_error(weft: Weft, runs: Runs):
    code, out, err = weft("predict", str(runs.first), SENTENCE, "--task", "match")
    assert (code, out) == (5, "")
    assert "match: the task takes a pair of texts, but one was given" in err


def test_an_unknown_task_is_answered_with_the_nearest(weft: Weft, runs: Runs):
    code, _, err = weft("predict", str(runs.first), SENTENCE, "-t", "mod")
    assert code == 5
    assert "Did you mean 'mood'" in err


def test_lines_of_standard_input_without_blank_ones(weft: Weft, runs: Runs, typed: Callable[[bytes], None]):
    typed(b"\xef\xbb\xbfa dog eats london\n\n  \nmary likes germany\r\nthe cat")
    code, out, err = weft("predict", str(runs.first), "-", "--json", "-t", "mood")
    assert (code, err) == (0, "")
    assert [one["input"] for one in answers(out)] == ["a dog eats london", "mary likes germany", "the cat"]


def test_standard_input_that_is_no_text_is_an_error(weft: Weft, runs: Runs, typed: Callable[[bytes], None]):
    typed(b"fine\n\xff\xfe\n")
    code, _, err = weft("predict", str(runs.first), "-")
    assert code == 5
    assert "standard input, line 2: must be UTF-8" in err


def test_a_slow_pipe_is_answered_line_by_line():
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as stream:
        chunks = _chunks(stream)
        os.write(write_end, b"one\ntwo\nthr")
        assert next(chunks) == ["one", "two"]
        writer = threading.Timer(0.05, lambda: (os.write(write_end, b"ee\n"), os.close(write_end)))
        writer.start()
        assert list(chunks) == [["three"]]
        writer.join()


def test_chunks_count_lines_over_blocks():
    stream = io.BytesIO(b"ok\n" * 3 + b"\xff\n")
    with pytest.raises(DataError, match="line 4"):
        list(_chunks(stream))


def test_a_file_is_answered_row_by_row_without_its_labels(weft: Weft, runs: Runs, tmp_path: Path):
    file = tmp_path / "rows.csv"
    file.write_text("text,label\nthe cat likes london,nonsense\nmary hates food,\n,happy\n")
    code, out, err = weft("predict", str(runs.first), str(file))
    assert code == 0
    found = answers(out)
    assert [one["input"] for one in found] == [f"{file}:{line}" for line in (2, 3, 4)]
    assert [set(one["answers"]["mood"]) for one in found] == [{"label", "probabilities"}] * 2 + [{"dropped"}]
    assert found[2]["answers"]["mood"] == {"dropped": "empty text"}
    assert "left out: names: needs column tokens" in err


def test_columns_may_be_named_otherwise(weft: Weft, runs: Runs, tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"review": SENTENCE}) + "\n")
    code, _, err = weft("predict", str(runs.first), str(file), "-t", "mood")
    assert code == 5
    assert "needs column text" in err
    assert "--column text=<column>" in err
    code, out, _ = weft("predict", str(runs.first), str(file), "-t", "mood", "--column", "text=review")
    (from_file,) = answers(out)
    (from_text,) = answers(weft("predict", str(runs.first), SENTENCE, "-t", "mood", "--json")[1])
    assert (code, from_file["answers"]) == (0, from_text["answers"])


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("text", "must be role=column"),
        ("txt=review", "Did you mean 'text'"),
        ("text=reviw", "Did you mean 'review'"),
    ],
)
def test_a_wrong_column_is_an_error(column: str, words: str, weft: Weft, runs: Runs, tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"review": SENTENCE}) + "\n")
    code, out, err = weft("predict", str(runs.first), str(file), "--column", column)
    assert (code, out) == (5, "")
    assert words in err


def test_options_without_anything_to_work_on_are_refused(weft: Weft, runs: Runs, tmp_path: Path):
    file = tmp_path / "new.csv"
    file.write_text("text\nthe cat\n")
    code, out, err = weft("predict", str(runs.first), str(file), "--pair", "x")
    assert (code, out) == (5, "")
    assert err.startswith(f"--pair: must go with a sentence, but {file} is a file. Name its column")
    code, out, err = weft("predict", str(runs.first), "the cat", "--column", "text=a")
    assert (code, out) == (5, "")
    assert err.startswith("--column text=a: must go with a file, but none is given.")


def test_answers_go_to_a_file(weft: Weft, runs: Runs, tmp_path: Path):
    file, output = runs.root / "mood.csv", tmp_path / "answers.jsonl"
    assert weft("predict", str(runs.first), f"{file}[:5]", "-t", "mood", "-o", str(output)) == (0, "", "")
    assert len(answers(output.read_text(encoding="utf-8"))) == 5


def test_answers_do_not_replace_their_questions(weft: Weft, runs: Runs, tmp_path: Path):
    file = tmp_path / "rows.csv"
    file.write_text("text\nthe cat\n")
    code, _, err = weft("predict", str(runs.first), str(file), "-o", str(file))
    assert code == 5
    assert "must not replace their questions" in err
    assert file.read_text() == "text\nthe cat\n"
    assert weft("predict", str(runs.first), "a cat", "-o", str(tmp_path / "none" / "x"))[0] == 74


@pytest.mark.parametrize(
    "name", ["rows.csv", "some/folder/my rows.jsonl", "rows.CSV", "rows.jsonl.gz", "rows.csv[:3]"]
)
def test_what_looks_like_a_file_must_be_one(name: str, weft: Weft, runs: Runs):
    code, out, err = weft("predict", str(runs.first), name)
    assert (code, out) == (5, "")
    assert "must exist" in err


@pytest.mark.parametrize(
    "text", ["read about rows.csv", "great", "and/or", "x" * 5000, "what [is] this?", "好电影"]
)
def test_what_does_not_look_like_a_file_is_a_sentence(text: str, weft: Weft, runs: Runs):
    code, out, _ = weft("predict", str(runs.first), text, "-t", "mood", "--json")
    assert (code, answers(out)[0]["input"]) == (0, text)


def test_batched_equals_single(weft: Weft, runs: Runs, typed: Callable[[bytes], None]):
    texts = ["the cat", "john smith sleeps in the good movie", "mary hates bad food", "a dog eats germany"]
    typed("\n".join(texts).encode())
    together = answers(weft("predict", str(runs.first), "-", "-t", "mood", "--json")[1])
    assert [one["input"] for one in together] == texts
    for text, batched in zip(texts, together, strict=True):
        (alone,) = answers(weft("predict", str(runs.first), text, "-t", "mood", "--json")[1])
        ours, theirs = (one["answers"]["mood"]["probabilities"] for one in (batched, alone))
        assert ours == pytest.approx(theirs, abs=0.01), "the tight bound is tested in fp32 in tests/evaluate"


def test_no_bundle_is_an_error_of_export(weft: Weft, tmp_path: Path):
    assert weft("predict", str(tmp_path), "hello")[0] == 7


def test_chinese(weft: Weft, runs: Runs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WEFT_LANG", "zh")
    code, _, err = weft("predict", str(runs.first), "好电影")
    assert code == 0
    assert err.startswith("略过：match")


def test_two_bundles_are_asked_at_once(weft: Weft, adapters: tuple[Path, Path], tmp_path: Path):
    """On one base with adapters alone: each row goes to the task that it names, of either bundle."""
    first, second = adapters
    code, out, err = weft(
        "predict", str(first), f"new={second}", SENTENCE, "--json", "-t", "mood", "-t", "new-mood"
    )
    assert (code, err) == (0, "")
    (mixed,) = answers(out)
    for folder, name in ((first, "mood"), (second, "new-mood")):
        (alone,) = answers(weft("predict", str(folder), SENTENCE, "--json", "-t", "mood")[1])
        shares = alone["answers"]["mood"]["probabilities"]
        assert mixed["answers"][name]["probabilities"] == pytest.approx(shares, abs=0.01)
    file = tmp_path / "rows.csv"
    file.write_text("text,who\nthe cat likes london,new-mood\nmary hates food,mood\n")
    code, out, err = weft("predict", str(first), f"new={second}", str(file), "--column", "task=who")
    assert (code, err) == (0, "")
    assert [list(one["answers"]) for one in answers(out)] == [["new-mood"], ["mood"]]


def test_bundles_that_cannot_share_are_an_error_of_export(weft: Weft, adapters: tuple[Path, Path]):
    first, second = map(str, adapters)
    code, _, err = weft("predict", first, second, SENTENCE)
    assert code == 7
    assert "but mood is in both" in err
    code, _, err = weft("predict", first, f"new={second}")
    assert code == 5
    assert "there must be something to answer" in err


ONLY_LORA = """
model: {{path: {model}, max_tokens: 32}}
precision: fp32
bootstrap: 100
tasks:
  mood: {{kind: classification, train: mood.csv}}
stages:
  - {{name: only, strategy: lora, length: 3 steps, batch: 8, lr: 5e-3}}
"""


@pytest.fixture(scope="module")
def adapters(runs: Runs, tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> tuple[Path, Path]:
    """Return two runs that trained a LoRA and a head each on the same base."""
    recipe = runs.root / "only.yaml"
    recipe.write_text(ONLY_LORA.format(model=tiny_bert), encoding="utf-8")
    folders = tmp_path_factory.mktemp("a") / "run", tmp_path_factory.mktemp("b") / "run"
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        for seed, folder in enumerate(folders):
            assert main(["train", str(recipe), f"seed={seed}", "--run", str(folder)]) == 0
    return folders


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer("B", {"A": 0.2, "B": 0.8}, text="she ran"), "B (80.0%): she ran"),
        (Answer("4", {"3": 0.25, "4": 0.75}, 3.75), "4 (75.0%), 3.75"),
        (Answer(["a", "b"], {"a": 0.6, "b": 0.7}), "a (60.0%), b (70.0%)"),
        (Answer(value=2.5), "2.500"),
        (Answer(text="one\ntwo"), "one\n    two"),
        (Answer(tags=("O", "B-X")), "O B-X"),
    ],
)
def test_an_answer_is_one_line_for_people(answer: Answer, words: str):
    assert _words(answer) == words
