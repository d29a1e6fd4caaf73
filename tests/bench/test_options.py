"""The command lines of the pages, and figures that stand in a file so that nothing is done twice."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest
from bench.order import Figures, Lap, Score

from bench import kept, options

PAGES = (
    *("__main__", "equality", "families", "levers", "pertask", "profile"),
    *("strategies", "translation", "writing"),
)
FIGURES = Figures(
    (Lap("training", 2.5, 7),), (Score("a", "f1", 0.5, 0.25, 0.75, 100),), 9.0, facts={"x": 1.0}
)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_how_it_is_called_and_what_it_may_be_asked(
    page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [page, "--help"])
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"bench.{page}").main()
    said = capsys.readouterr().out
    assert left.value.code == 0
    assert said.startswith("usage: python -m bench" + ("" if page == "__main__" else f".{page}") + " [-h]")
    assert all(f"--{word}" in said for word in ("data", "work", "threads"))


def test_what_nobody_says_is_derived() -> None:
    asked = options.parser("bench.x", "About.\n\nMore.")
    options.ask_rounds(asked, 4)
    given = asked.parse_args([])
    assert (given.rounds, given.patience, given.threads) == (4, 60.0, os.cpu_count())
    given = asked.parse_args(["--data", "here", "--work", "there", "--rounds", "2"])
    assert (given.data, given.work, given.rounds) == (Path("here"), Path("there"), 2)


def test_figures_come_back_by_their_key_the_last_of_equal_ones(tmp_path: Path) -> None:
    file = tmp_path / "figures.jsonl"
    assert kept.read(file, ("name", "seed")) == {}
    kept.add(file, FIGURES, name="罗拉", seed=1)
    kept.add(file, Figures(()), name="full", seed=2)
    kept.add(file, FIGURES, name="full", seed=2)
    assert kept.read(file, ("name", "seed")) == {("罗拉", 1): FIGURES, ("full", 2): FIGURES}
    assert len(file.read_text(encoding="utf-8").splitlines()) == 3
