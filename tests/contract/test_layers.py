"""What importing a room brings along. The floors themselves are contracts of import-linter (``make lint``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"


def _fresh(code: str) -> list[str]:
    """Run ``code`` in an interpreter that has imported nothing; return the JSON list it prints."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment["PYTHONPATH"] = str(SOURCE)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", ["weft", "weft.errors", "weft.recipe"])
def test_plain_values_need_no_tensor_library(module: str):
    loaded = _fresh(f"import {module}, json, sys; print(json.dumps(sorted(sys.modules)))")
    assert module in loaded
    heavy = {
        "torch",
        "numpy",
        "scipy",
        "sklearn",
        "pyarrow",
        "transformers",
        "tokenizers",
        "peft",
        "safetensors",
    }
    assert heavy & set(loaded) == set()


IMPORT_ALL = """
import importlib, json, pkgutil, socket

def refuse(*args, **kwargs):
    raise AssertionError("importing weft must open no connection")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import weft
names = [found.name for found in pkgutil.walk_packages(weft.__path__, "weft.") if found.name != "weft.__main__"]
for name in names:
    importlib.import_module(name)
print(json.dumps(names))
"""


def test_importing_every_module_opens_no_connection():
    names = set(_fresh(IMPORT_ALL))
    files = {path.relative_to(SOURCE).with_suffix("") for path in (SOURCE / "weft").rglob("*.py")}
    modules = {".".join(path.parts).removesuffix(".__init__") for path in files}
    assert modules - names == {"weft"} | ({"weft.__main__"} & modules)
