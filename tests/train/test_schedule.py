"""The schedule's closed forms, and parity with the schedules that transformers users know."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.recipe.spec import Schedule
from weft.train.schedule import lr_factor


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule.LINEAR, [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]),
        (
            Schedule.COSINE,
            [0.0, 0.5, 1.0, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 - math.cos(math.pi / 4)) / 2, 0.0],
        ),
        (Schedule.CONSTANT, [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_closed_forms(schedule, expected):
    dones = [0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert [lr_factor(done, schedule=schedule, warmup=0.2) for done in dones] == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize("schedule", list(Schedule))
def test_without_warmup_it_starts_at_the_peak(schedule):
    assert lr_factor(0.0, schedule=schedule, warmup=0.0) == 1.0


@given(st.floats(0, 3), st.sampled_from(list(Schedule)), st.floats(0, 0.99))
def test_the_factor_is_between_0_and_1_and_falls_after_warmup(done, schedule, warmup):
    factor = lr_factor(done, schedule=schedule, warmup=warmup)
    assert 0 <= factor <= 1
    if done >= warmup:
        assert lr_factor(done + 0.01, schedule=schedule, warmup=warmup) <= factor


@pytest.mark.parametrize("done", [-0.1, math.nan])
def test_a_share_that_is_none_is_refused(done):
    with pytest.raises(ValueError, match="done: must be a share"):
        lr_factor(done, schedule=Schedule.LINEAR, warmup=0.1)


@pytest.mark.parametrize(("schedule", "name"), [(Schedule.LINEAR, "linear"), (Schedule.COSINE, "cosine")])
def test_parity_with_transformers(schedule, name):
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(name, optimizer, num_warmup_steps=10, num_training_steps=100)
    for step in range(100):
        ours = lr_factor(step / 100, schedule=schedule, warmup=0.1)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        theirs.step()
