"""The build hook: compiles what the installer would, and goes on without a compiler."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import weft.native.attention as attention_module
from weft.native.attention import attention
from weft.native.library import load

HOOK = Path(__file__).parents[2] / "hatch_build.py"


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("hatch_build", HOOK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_plain_build_loads_and_computes_what_the_fallback_computes(hook, monkeypatch, tmp_path):
    if hook.compiler() is None:
        pytest.skip("no C++ compiler on the path")
    made, failures = hook.build(tmp_path, ["generic"])
    assert failures == []
    assert [path.name for path in made] == ["generic.so"]
    assert [path.name for path in tmp_path.iterdir()] == ["generic.so"]
    library = load(made[0])
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(40, 2, 24, generator=generator) for _ in range(3))
    starts = torch.tensor([0, 17, 40], dtype=torch.int32)
    outs = []
    for chosen in (library, None):
        monkeypatch.setattr(attention_module, "use_native", lambda *_, chosen=chosen: chosen)
        outs.append(attention(q, k, v, starts, 23, scale=0.2, window=(5, 0)))
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-6)


def test_every_variant_is_one_the_library_looks_for(hook):
    from weft.native import library

    searched = {name for names in library._LOWER.values() for name in names}
    assert set(hook.VARIANTS_X86) == searched
    assert set(hook.VARIANTS_OTHER) <= searched


def test_without_a_compiler_nothing_is_made_and_nothing_fails(hook, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert hook.compiler() is None
    assert hook.build(tmp_path) == ([], ["no C++ compiler on the path"])


def test_a_compiler_that_fails_is_reported_and_leaves_nothing_behind(hook, monkeypatch, tmp_path):
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\necho cannot >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    target = tmp_path / "out"
    target.mkdir()
    made, failures = hook.build(target, ["generic"])
    assert (made, failures) == ([], ["generic: cannot"])
    assert list(target.iterdir()) == []
