"""Options of how tasks answer, given on a command line: ``reply.decoding.beams=4``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weft.errors import DataError, nearest
from weft.recipe.yaml import parse
from weft.task.base import Task, Told


def told(tasks: Mapping[str, Task], settings: Sequence[str]) -> dict[str, Task]:
    """Return ``tasks``, those that ``settings`` name told to answer otherwise; values are read as in a recipe.

    Raises:
        DataError: not TASK.option=value, no such task, one that answers in one way only, or no such option or value.
    """
    options: dict[str, dict[str, Any]] = {}
    for text in settings:
        path, equals, value = text.partition("=")
        name, *keys = path.strip().split(".")
        if not equals or not keys or not all(keys):
            raise DataError(
                f"--set {text}: must be TASK.option=value, but is not. Example: --set reply.decoding.beams=4."
            )
        if name not in tasks:
            raise DataError(f"--set {text}: must name a task, but {name} is none. {nearest(name, tasks)}")
        at = options.setdefault(name, {})
        for key in keys[:-1]:
            at = at.setdefault(key, {})
        at[keys[-1]] = parse(value, f"--set {text}").data
    return {name: _told(task, options[name]) if name in options else task for name, task in tasks.items()}


def _told(task: Task, options: Mapping[str, Any]) -> Task:
    if not isinstance(task, Told):
        raise DataError(
            f"--set {task.name}: must be a task that can answer in several ways, but is a {task.kind}. Leave it out."
        )
    return task.told(options)
