"""Every task family, one line each. Nothing outside ``weft.task`` names a family."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from weft.task.base import Task
from weft.task.choice import Choice
from weft.task.classification import Classification
from weft.task.generation import Generation
from weft.task.ordinal import Ordinal
from weft.task.question_answering import QuestionAnswering
from weft.task.regression import Regression
from weft.task.tagging import Tagging

FAMILIES: Mapping[str, type[Task]] = MappingProxyType(
    {
        "classification": Classification,
        "regression": Regression,
        "ordinal": Ordinal,
        "choice": Choice,
        "tagging": Tagging,
        "qa": QuestionAnswering,
        "generation": Generation,
    }
)
