"""Figures that stand in a file as they come, so that a long table may be made in several goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.order import Figures

Key = tuple[str | int, ...]


def add(file: Path, figures: Figures, **key: str | int) -> None:
    """Add figures to ``file``, one line of JSON, under what they are the figures of."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({**key, "figures": asdict(figures)}) + "\n")


def read(file: Path, names: Sequence[str]) -> dict[Key, Figures]:
    """Return what earlier goes have measured by the values of ``names``, the last of equal ones; nothing without a file."""
    if not file.is_file():
        return {}
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {tuple(one[name] for name in names): Figures.of(one["figures"]) for one in lines}
