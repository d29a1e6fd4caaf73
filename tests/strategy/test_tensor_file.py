"""Tensors of an adapter on disk: in order, apart, readable by others; and what is no such file is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open

from weft.errors import StrategyError
from weft.strategy import tensor_file


def test_views_of_one_memory_come_back_as_tensors_of_their_own(tmp_path):
    whole, path = torch.arange(12.0).view(3, 4), tmp_path / "a.safetensors"
    tensors = {"top": whole[:2], "turned": whole.t(), "half": whole.bfloat16(), "first": whole[0]}
    tensor_file.write(path, tensors, {"format": "pt", "of": "权重"})
    whole.zero_()
    found = tensor_file.read(path)
    assert torch.equal(found["top"], torch.arange(8.0).view(2, 4))
    assert torch.equal(found["turned"], torch.arange(12.0).view(3, 4).t())
    assert (found["half"].dtype, found.keys()) == (torch.bfloat16, tensors.keys())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "of": "权重"}
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_same_tensors_are_the_same_bytes_whatever_their_order(tmp_path):
    one, other = torch.ones(2), torch.zeros(3)
    tensor_file.write(tmp_path / "a", {"x": one, "y": other})
    tensor_file.write(tmp_path / "b", {"y": other, "x": one})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"pickle", b"\xff" * 64])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        StrategyError, match=r"a\.safetensors: must be a safetensors file, but cannot be read"
    ):
        tensor_file.read(path)
