"""A run in a process of its own that can be killed: ``runpy.run_path(child.py, {"ARGUMENTS": (...)})``.

Arguments: folder of the run; recipe; what to do. Nothing is said on stdout or stderr.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from weft.build.catalogue import open_recipe
from weft.errors import WeftError
from weft.run import session
from weft.run.folder import RunFolder
from weft.train import checkpoint, optimizer


def work(folder: Path, recipe: Path) -> None:
    """Start the run, or take it up."""
    home = RunFolder(folder)
    if home.origin.is_file():
        events = session.resume(home)
    else:
        events = session.train(open_recipe(recipe), home, root=recipe.parent)
    for _ in events:
        pass


def kill_in_writer(number: int, place: str) -> None:
    """Die inside the ``number``-th checkpoint, just after ``place`` is on disk."""
    count = iter(range(10_000))
    save = checkpoint.save

    @functools.wraps(save)
    def deadly(*arguments: Any, **options: Any) -> Path:
        mine = next(count)

        def die(name: str) -> None:
            if (mine, name) == (number, place):
                os.kill(os.getpid(), signal.SIGKILL)

        return save(*arguments, **options, on_file=die)

    checkpoint.save = deadly


def kill_at_boundary(number: int, place: str) -> None:
    """Die where stage ``number`` ends: inside writing what it hands on, once that is whole, or as the next is entered."""
    count = iter(range(10_000))
    save, write, enter = session.save_tensors, session._write_final, session.open_stage

    def die_if(name: str, stage: int) -> None:
        if (stage, name) == (number, place):
            os.kill(os.getpid(), signal.SIGKILL)

    def write_final(*arguments: Any) -> None:
        mine = next(count)

        def save_tensors(*values: Any) -> None:
            die_if("inside", mine)
            save(*values)

        session.save_tensors = save_tensors
        write(*arguments)
        die_if("at", mine)

    def open_stage(context: Any, stage: Any, parent: Any) -> Any:
        entered = enter(context, stage, parent)
        die_if("after", list(context.recipe.stages).index(stage) - 1)
        return entered

    session._write_final, session.open_stage = write_final, open_stage


def main(folder: str, recipe: str, *fault: str) -> int:
    torch.set_num_threads(1)
    # Not that of the run they are compared with.
    os.environ["WEFT_CACHE"] = str(Path(folder).parent / "cache")
    optimizer.LEAST_ROWS = 1  # the tables of tiny models are smaller than those whose rows wait
    if fault:
        kill = kill_at_boundary if fault[1] in ("inside", "at", "after") else kill_in_writer
        kill(int(fault[0]), fault[1])
    try:
        work(Path(folder), Path(recipe))
    except WeftError as error:
        return error.exit_code
    return 0


if __name__ == "weft_child":
    sys.exit(main(*globals()["ARGUMENTS"]))
