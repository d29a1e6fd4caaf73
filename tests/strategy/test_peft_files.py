"""The two files of a PEFT folder: as PEFT writes them, readable by others, and what they say they hold."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from weft.strategy.peft_files import save, type_of


def test_what_is_saved_is_there_and_others_may_read_it(tmp_path):
    folder = tmp_path / "new" / "one"
    save(folder, {"peft_type": "VERA", "r": 2}, {"b": torch.ones(2, 3).t(), "a": torch.zeros(1)})
    assert json.loads((folder / "adapter_config.json").read_text()) == {"peft_type": "VERA", "r": 2}
    found = load_file(folder / "adapter_model.safetensors")
    assert {key: tuple(tensor.shape) for key, tensor in found.items()} == {"a": (1,), "b": (3, 2)}
    assert (folder / "adapter_model.safetensors").stat().st_mode & 0o444 == 0o444
    assert type_of(folder) == "VERA"


@pytest.mark.parametrize("text", [None, "{", "[1]", "{}"])
def test_a_folder_that_says_nothing_has_no_type(tmp_path, text):
    if text is not None:
        (tmp_path / "adapter_config.json").write_text(text)
    assert type_of(tmp_path) is None
