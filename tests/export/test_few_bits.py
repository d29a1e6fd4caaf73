"""A bundle on a base in few bits is exported on the original weights, and how far that moves logits is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from weft.cli.export import run
from weft.errors import ExportError
from weft.export.bundle import open_bundle
from weft.export.plain import export_plain
from weft.export.proof import rounding


@pytest.fixture
def few(adapter_bert, tmp_path) -> Path:
    """Return a bundle that says that it was trained on int8."""
    shutil.copytree(adapter_bert.folder, tmp_path / "few")
    path = tmp_path / "few" / "weft.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantize": "int8"}))
    return tmp_path / "few"


def test_it_must_be_opened_on_whole_weights(few, tmp_path):
    opened, whole = (open_bundle(few, precision="fp32", keeps_whole=keeps) for keeps in (False, True))
    with pytest.raises(
        ExportError, match="must be opened on whole weights to be exported, but its base is in int8"
    ):
        export_plain(opened, tmp_path / "out", tasks=["mood"])
    assert 1e-5 < rounding(whole, opened, "mood") < 0.1
    assert rounding(whole, whole, "mood") == 0.0


def test_the_command_says_how_far_logits_move(few, tmp_path, capsys):
    run(few, tmp_path / "out", task=["mood"], is_json=True)
    values = json.loads(capsys.readouterr().out)
    assert [Path(one["folder"]).name for one in values] == ["mood", "mood-adapter"]
    assert all(one["difference"] < 1e-4 and 1e-5 < one["rounding"] < 0.1 for one in values)
    run(few, tmp_path / "out", task=["mood"])
    assert "int8" in capsys.readouterr().out
