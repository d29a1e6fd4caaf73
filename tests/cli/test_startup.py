"""The collector rests while a command starts, and no longer."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from weft.cli import app
from weft.cli.startup import started, starting


def test_the_pace_is_slow_while_starting_and_as_before_afterwards():
    before = gc.get_threshold()
    with starting():
        assert gc.get_threshold()[0] > 100 * before[0]
        assert gc.isenabled()
        started()
        assert gc.get_threshold() == (700, 10, 10)
    assert gc.get_threshold() == before


def test_an_error_restores_the_pace():
    before = gc.get_threshold()
    with pytest.raises(KeyError), starting():
        raise KeyError
    assert gc.get_threshold() == before


def test_a_command_starts_at_the_slow_pace(
    weft: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
):
    seen: list[int] = []
    probe = ModuleType("probe")
    probe.run = lambda: seen.append(gc.get_threshold()[0])
    monkeypatch.setitem(sys.modules, "probe", probe)
    monkeypatch.setattr(app, "COMMANDS", {"env": "probe"})
    before = gc.get_threshold()
    assert weft("env")[0] == 0
    assert seen == [100_000]
    assert gc.get_threshold() == before
