"""Records come back from their JSON as they were, and refuse what they do not know."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from weft.report.records import FORMAT, RunReport, Score, StepReport


def test_a_run_comes_back_from_json(report):
    again = RunReport.model_validate_json(report.model_dump_json())
    assert again == report
    assert again.format == FORMAT


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_values_that_are_not_finite_survive_json(value):
    step = StepReport(
        stage="a", step=1, epoch=0.1, lr=1e-3, losses={"t": value}, grad_norm=1.0, examples=1, tokens=2, padded_tokens=2,
        seconds=0.1,
    )  # fmt: skip
    assert StepReport.model_validate_json(step.model_dump_json()) == step


def test_nan_survives_json_as_nan():
    score = Score(metric="m", value=math.nan, low=math.nan, high=math.nan, n=1, baseline=0.0)
    assert math.isnan(Score.model_validate_json(score.model_dump_json()).value)


def test_unknown_keys_and_changes_are_refused(report):
    values = report.model_dump(mode="json")
    with pytest.raises(ValidationError, match="surprise"):
        RunReport.model_validate({**values, "surprise": 1})
    with pytest.raises(ValidationError, match="frozen"):
        report.name = "other"


def test_a_task_without_scores_is_no_report(report):
    values = report.final[0].tasks[0].model_dump(mode="json")
    with pytest.raises(ValidationError, match="scores"):
        type(report.final[0].tasks[0]).model_validate({**values, "scores": []})
