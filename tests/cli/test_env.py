from __future__ import annotations

import json
import platform
from collections.abc import Callable

import pytest
import torch

from weft import __version__
from weft.cli.env import gather, processor

Weft = Callable[..., tuple[int, str, str]]

XEON = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) 8481C\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile amx_int8\n\n"
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n"


def test_json_has_versions_machine_and_variables(weft: Weft, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_HOME", raising=False)
    code, out, err = weft("env", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts == gather()
    assert facts["versions"]["weft"] == __version__
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["versions"]["python"] == platform.python_version()
    assert facts["machine"]["cores"] >= 1
    assert facts["machine"]["memory_gib"] > 0.1
    assert facts["variables"]["HF_HUB_OFFLINE"] == "1"
    assert facts["variables"]["HF_HOME"] is None
    assert len(facts["accelerators"]) == torch.cuda.device_count()


def test_text_has_every_section(weft: Weft):
    code, out, _ = weft("env")
    assert code == 0
    for line in ("Versions", "Machine", "Accelerators", "Environment variables"):
        assert f"{line}\n" in out
    assert f"  weft          {__version__}\n" in out


@pytest.mark.parametrize(
    ("cpuinfo", "units", "has_bf16", "has_amx"),
    [
        (XEON, ["avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8"], True, True),
        (GRAVITON, ["bf16"], True, False),
        ("model name : Old\nflags : fpu sse2\n", [], False, False),
        ("", [], False, False),
    ],
)
def test_processor(cpuinfo: str, units: list[str], has_bf16: bool, has_amx: bool):
    facts = processor(cpuinfo)
    assert facts["units"] == units
    assert (facts["has_bf16"], facts["has_amx"]) == (has_bf16, has_amx)
    assert facts["processor"]


def test_the_name_of_the_processor():
    assert processor(XEON)["processor"] == "Intel(R) Xeon(R) 8481C"
