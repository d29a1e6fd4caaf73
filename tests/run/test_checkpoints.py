"""What a checkpoint knows of its stage."""

from __future__ import annotations

import json
import math

import pytest

from weft.report.records import EvalReport, Score, StepReport, TaskReport
from weft.run.checkpoints import History
from weft.train.progress import Best

SCORE = Score(metric="accuracy", value=0.5, low=0.4, high=0.6, n=9, baseline=0.5)


def history(loss: float) -> History:
    line = StepReport(
        stage="s",
        step=3,
        epoch=1.0,
        lr=1e-3,
        losses={"a": loss},
        grad_norm=loss,
        examples=1,
        tokens=2,
        padded_tokens=3,
        seconds=0.1,
    )
    task = TaskReport(task="a", kind="classification", split="dev", scores=(SCORE,), loss=loss)
    return History(
        best=Best(0.5, 2, 2, 1),
        curve=[line],
        evaluations=[EvalReport(split="dev", tasks=(task,), selection=0.5, step=2)],
        seconds_evaluating=1.5,
        entry_difference=1e-7,
        is_owed=True,
    )


@pytest.mark.parametrize("loss", [0.25, math.inf, -math.inf])
def test_history_comes_back_from_json(loss: float):
    text = json.dumps(history(loss).to_json(), allow_nan=False)
    assert History.from_json(json.loads(text)) == history(loss)


def test_history_with_nan_is_json():
    text = json.dumps(history(math.nan).to_json(), allow_nan=False)
    back = History.from_json(json.loads(text))
    assert math.isnan(back.curve[0].losses["a"])
    assert math.isnan(back.curve[0].grad_norm)
    assert math.isnan(back.evaluations[0].tasks[0].loss or 0.0)


def test_histories_do_not_share_their_lists():
    one, other = History(), History()
    one.curve.append(history(1.0).curve[0])
    assert other.curve == []
    assert not other.is_owed
