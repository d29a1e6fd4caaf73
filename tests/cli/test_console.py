from __future__ import annotations

import io

import pytest
from rich.console import Console

from weft.cli.console import bars, err, out


def test_results_and_messages_go_to_their_streams_unbroken_and_unchanged(capsys: pytest.CaptureFixture[str]):
    line = "[bold] :smile: data.csv[:500] " + "x" * 300
    out().print(line)
    err().print(f"to err {line}")
    captured = capsys.readouterr()
    assert captured.out == f"{line}\n"
    assert captured.err == f"to err {line}\n"


def test_bars_say_nothing_where_there_is_no_terminal():
    stream = io.StringIO()
    with bars(Console(file=stream)) as progress:
        task = progress.add_task("train", total=10)
        progress.advance(task, 5)
    assert stream.getvalue() == ""


def test_bars_show_count_and_rate_on_a_terminal():
    stream = io.StringIO()
    with bars(Console(file=stream, force_terminal=True, width=100)) as progress:
        task = progress.add_task("train", total=10)
        for _ in range(5):
            progress.advance(task)
        progress.refresh()
    assert "train" in stream.getvalue()
    assert "5/10" in stream.getvalue()
    assert "/s" in stream.getvalue()
