"""What the repository ships beside code: licences, data, and no trace of the machine it was made on."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY / "recipes" / "data" / "quickstart"
SPLITS = ("train", "dev", "test")
MAX_DATA_BYTES = 3_000_000
TEXT_SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".svg", ".json", ".html", ""}

Rows = list[dict[str, Any]]


def _sentiment(split: str) -> Rows:
    with (DATA / f"sentiment.{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _similarity(split: str) -> Rows:
    lines = (DATA / f"similarity.{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _entities(split: str) -> list[list[list[str]]]:
    sentences = (DATA / f"entities.{split}.conll").read_text(encoding="utf-8").strip("\n").split("\n\n")
    return [[line.split(" ") for line in sentence.split("\n")] for sentence in sentences]


def test_quickstart_data_is_small():
    assert sum(path.stat().st_size for path in DATA.iterdir()) <= MAX_DATA_BYTES


@pytest.mark.parametrize(("split", "count"), [("train", 400), ("dev", 80), ("test", 100)])
def test_sentiment_rows(split: str, count: int):
    rows = _sentiment(split)
    assert len(rows) == count
    for row in rows:
        assert set(row) == {"text", "label"}
        assert row["label"] in {"positive", "negative"}
        assert 20 <= len(str(row["text"]).split()) <= 110
    positive = sum(row["label"] == "positive" for row in rows) / count
    assert 0.4 <= positive <= 0.6


@pytest.mark.parametrize(("split", "count"), [("train", 3000), ("dev", 400), ("test", 500)])
def test_similarity_rows(split: str, count: int):
    rows = _similarity(split)
    assert len(rows) == count
    for row in rows:
        assert list(row) == ["text1", "text2", "score"]
        assert len(f"{row['text1']} {row['text2']}".split()) <= 40
    for grade in (0.0, 0.5, 1.0):
        assert 0.25 <= sum(row["score"] == grade for row in rows) / count <= 0.42


@pytest.mark.parametrize(("split", "count"), [("train", 1500), ("dev", 300), ("test", 500)])
def test_entity_rows(split: str, count: int):
    sentences = _entities(split)
    assert len(sentences) == count
    for sentence in sentences:
        assert 5 <= len(sentence) <= 60
        before = "O"
        for token, tag in sentence:
            assert token
            assert tag in {"O", "B-Chemical", "I-Chemical", "B-Disease", "I-Disease"}
            assert not tag.startswith("I-") or before[2:] == tag[2:], "I- must continue an entity"
            before = tag


def _texts(split: str) -> dict[str, set[str]]:
    return {
        "sentiment": {str(row["text"]).casefold() for row in _sentiment(split)},
        "similarity": {str(row[key]).casefold() for row in _similarity(split) for key in ("text1", "text2")},
        "entities": {" ".join(token for token, _ in rows).casefold() for rows in _entities(split)},
    }


@pytest.mark.parametrize(("left", "right"), [("train", "dev"), ("train", "test"), ("dev", "test")])
def test_splits_share_no_text(left: str, right: str):
    ours, theirs = _texts(left), _texts(right)
    assert {task: ours[task] & theirs[task] for task in ours} == {task: set() for task in ours}


def test_every_data_file_has_its_licence_written_down():
    notice = (DATA / "LICENSES.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^## `([^`]+)`$", notice, flags=re.MULTILINE))
    data = {path for path in DATA.iterdir() if path.suffix != ".md"}
    assert {path for path in data if not any(path.match(pattern) for pattern in described)} == set()
    sections = notice.split("\n## ")[1:]
    assert len(sections) == len(described) == 3
    for section in sections:
        for word in ("- Source:", "- Licence:", "- Changes:"):
            assert section.count(word) == 1


def _shipped() -> list[Path]:
    """Return the files of the repository, without asking git: a bare machine may not have it."""
    folders = (".ci", "src", "tests", "recipes", "examples", "docs", "tools", "bench")
    below = (path for folder in folders for path in (REPOSITORY / folder).rglob("*"))
    files = [
        path for path in (*REPOSITORY.iterdir(), *below) if path.is_file() and "__pycache__" not in path.parts
    ]
    assert len(files) > 50
    return files


def test_nothing_names_the_machine_it_was_made_on():
    """A path below a home or work folder is right on one machine only."""
    pattern = re.compile(r"(?<![\w.$}*-])/(?:root|home|work)/[\w.]")
    named = [
        f"{path.relative_to(REPOSITORY)}:{number}"
        for path in _shipped()
        if path.suffix in TEXT_SUFFIXES and path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert named == []


def test_licence_is_the_whole_apache_licence():
    text = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert text.count("END OF TERMS AND CONDITIONS") == 1
    for section in ("1. Definitions.", "3. Grant of Patent License.", "9. Accepting Warranty"):
        assert section in text
    assert 11_000 < len(text) < 11_600


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_readme_links_lead_somewhere(name: str):
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)|src=\"([^\"]+)\"", text)
    local = [target for pair in targets for target in pair if target and "://" not in target]
    assert local, "README points to nothing"
    assert [target for target in local if not (REPOSITORY / target).exists()] == []
