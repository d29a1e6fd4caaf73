"""Train a recipe from Python and follow what happens.

python examples/train_and_follow.py recipes/instruct.yaml runs/instruct "stages.tune.length=20 steps"
"""

from __future__ import annotations

import sys
from pathlib import Path

from weft.build.catalogue import open_recipe
from weft.run.events import DataRead, Evaluated, Event, Finished, StageStarted, Stepped
from weft.run.folder import RunFolder
from weft.run.session import train


def main(arguments: list[str]) -> None:
    """Train ``arguments[0]`` into the folder ``arguments[1]``; all others are overrides."""
    path, folder, *overrides = arguments
    recipe = open_recipe(Path(path), tuple(overrides))
    for event in train(recipe, RunFolder(Path(folder)), root=Path(path).resolve().parent):
        tell(event)


def tell(event: Event) -> None:
    """Print one line for the events that matter here; a notebook might draw instead."""
    match event:
        case DataRead(report):
            print("tasks:", ", ".join(task.task for task in report.tasks))
        case StageStarted(plan):
            print(f"stage {plan.name}: {plan.num_trained:,} of {plan.num_values:,} values are trained")
        case Stepped(report, done):
            print(f"  {done:4.0%}  losses {report.losses}")
        case Evaluated(report, is_best):
            print(f"  selection score {report.selection:.3f}", "(best so far)" if is_best else "")
        case Finished(report, folder):
            for task in report.final[0].tasks:
                score = task.scores[0]
                print(f"{task.task}: {score.metric} {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]")
            print("bundle:", folder / "bundle")
        case _:
            pass


if __name__ == "__main__":
    main(sys.argv[1:])
