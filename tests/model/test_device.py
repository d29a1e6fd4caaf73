"""Device and precision follow the hardware, whatever hardware the tests run on."""

from __future__ import annotations

import pytest
import torch

from weft.model import device as device_module
from weft.model.device import cpu_flags, describe_machine, pick_device, pick_precision, set_products
from weft.recipe.spec import Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx512_bf16", "avx2"}, torch.bfloat16),
        ({"amx_bf16"}, torch.bfloat16),
        ({"asimd", "bf16"}, torch.bfloat16),
        ({"avx2", "avx512f", "amx_tile"}, torch.float32),
        (set(), torch.float32),
    ],
)
def test_auto_takes_bf16_only_from_native_units(monkeypatch, flags, expected):
    monkeypatch.setattr(device_module, "cpu_flags", lambda: frozenset(flags))
    assert pick_precision(Precision.AUTO, CPU) is expected
    assert pick_precision(Precision.FP32, CPU) is torch.float32
    assert pick_precision(Precision.MEDIUM, CPU) is torch.float32
    assert pick_precision(Precision.BF16, CPU) is torch.bfloat16


@pytest.mark.parametrize("supported", [True, False])
def test_auto_on_a_gpu_asks_the_gpu(monkeypatch, supported):
    asked = []

    def is_bf16_supported(including_emulation=True):
        asked.append(including_emulation)
        return supported

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    expected = torch.bfloat16 if supported else torch.float32
    assert pick_precision(Precision.AUTO, torch.device("cuda")) is expected
    assert asked == [False]


@pytest.mark.parametrize(("available", "expected"), [(True, "cuda:0"), (False, "cpu")])
def test_the_gpu_comes_first(monkeypatch, available, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert str(pick_device()) == expected


def test_flags_without_proc_are_torchs(monkeypatch):
    monkeypatch.setattr(device_module, "_cpuinfo", lambda key: "")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    cpu_flags.cache_clear()
    try:
        assert cpu_flags() == {"avx512_bf16"}
    finally:
        cpu_flags.cache_clear()


def test_the_machine_describes_itself():
    facts = describe_machine()
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == str(torch.get_num_threads())
    assert facts["precision"] in ("float32", "bfloat16")
    assert {"system", "python", "transformers", "cpu", "cores", "memory", "device"} <= set(facts)
    assert all(isinstance(value, str) and value for value in facts.values())


def test_products_are_narrower_only_where_it_is_asked_for():
    before = torch.get_float32_matmul_precision()
    try:
        set_products(Precision.MEDIUM)
        assert torch.get_float32_matmul_precision() == "medium"
        set_products(Precision.AUTO)
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)
