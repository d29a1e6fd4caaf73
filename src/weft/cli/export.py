"""``weft export``: plain transformers and peft folders, proven equal to what was trained."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from weft.cli.console import out
from weft.cli.messages import say
from weft.export.bundle import open_bundle
from weft.export.chat import Chat
from weft.export.plain import TOLERANCE, export_plain
from weft.export.proof import rounding
from weft.recipe.spec import Precision


def run(
    bundle: Annotated[Path, typer.Argument(help=say("arg.bundle"))],
    folder: Annotated[Path, typer.Argument(help=say("export.folder"))],
    task: Annotated[list[str] | None, typer.Option("--task", help=say("export.task"))] = None,
    base: Annotated[Path | None, typer.Option("--base", help=say("arg.base"))] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0.0, help=say("export.tolerance"))
    ] = TOLERANCE,
    is_json: Annotated[bool, typer.Option("--json", help=say("env.json"))] = False,
) -> None:
    """Write one folder a task (and one adapter folder a task where adapters are not merged), and say how near they are."""
    opening = partial(open_bundle, bundle, base=base, device=torch.device("cpu"), precision=Precision.FP32)
    opened = few = opening()
    if few.base.quantize is not None:
        opened = opening(keeps_whole=True)
    names = tuple(task or opened.tasks)
    results = export_plain(opened, folder, tasks=names, tolerance=tolerance)
    moved = {} if few is opened else {name: rounding(opened, few, name) for name in names}
    if is_json:
        values = [
            {"folder": str(one.folder), "loads_with": one.loads_with, "difference": one.difference}
            | ({"windows": dict(one.windows)} if one.windows else {})
            | ({"chat_template": one.chat} if one.chat else {})
            | ({"rounding": moved[one.folder.name.removesuffix("-adapter")]} if moved else {})
            for one in results
        ]
        sys.stdout.write(json.dumps(values, indent=2) + "\n")
        return
    console = out()
    for one in results:
        console.print(
            say("export.done", folder=one.folder, loader=one.loads_with, difference=f"{one.difference:.1e}")
        )
        if one.chat is Chat.FIRST:
            console.print("  " + say("export.chat"))
        if one.windows:
            console.print(
                "  "
                + say("export.windows", tokens=opened.tokenizer.max_tokens, pooling=one.windows["pooling"])
            )
    for name, share in moved.items():
        console.print(say("export.rounding", task=name, format=few.base.quantize, difference=f"{share:.1e}"))
