"""What of a pass is kept: the most that fits, unless the recipe says."""

from __future__ import annotations

import pytest
import torch

from weft.build.activations import choose
from weft.build.estimate import Machine, stage_plans
from weft.errors import ModelError
from weft.recipe.spec import Activations

NEEDED = {Activations.KEEP: 100, Activations.RECOMPUTE: 50, Activations.OFFLOAD: 20}


@pytest.mark.parametrize(
    ("memory", "is_gpu", "expected"),
    [
        (1000, True, "keep"),
        (100, True, "recompute"),
        (40, True, "offload"),
        (1, True, "offload"),
        (1000, False, "keep"),
        (100, False, "recompute"),
        (1, False, "recompute"),
    ],
)
def test_the_most_that_fits(memory, is_gpu, expected):
    found = choose(Activations.AUTO, NEEDED.__getitem__, memory_bytes=memory, is_gpu=is_gpu)
    assert found == expected


@pytest.mark.parametrize("asked", [Activations.KEEP, Activations.RECOMPUTE, Activations.OFFLOAD])
def test_who_says_gets_it(asked):
    assert choose(asked, NEEDED.__getitem__, memory_bytes=1, is_gpu=True) is asked


def test_layers_that_are_not_known_keep_everything():
    roomy = {"memory_bytes": 1, "is_gpu": True, "recomputes": False}
    assert choose(Activations.AUTO, NEEDED.__getitem__, **roomy) is Activations.KEEP
    assert choose(Activations.KEEP, NEEDED.__getitem__, **roomy) is Activations.KEEP
    with pytest.raises(ModelError, match="activations: must be keep"):
        choose(Activations.RECOMPUTE, NEEDED.__getitem__, **roomy)


def test_a_plan_says_what_it_does(open_kit):
    opened = open_kit([{"name": "one", "strategy": "full"}])
    entered = opened.rehearse()
    roomy, tight = (
        stage_plans(opened.recipe, entered, opened.data, Machine(1e9, torch.float32, memory_bytes=room))[0]
        for room in (2**40, 2**20)
    )
    assert (roomy.activations, tight.activations) == ("keep", "recompute")
    assert tight.memory_bytes < roomy.memory_bytes
    assert [("again in the backward pass" in way) for way in tight.ways] == [True]
    assert roomy.ways == ()


def plan_of(opened, dtype, **machine):
    return stage_plans(opened.recipe, opened.rehearse(), opened.data, Machine(1e9, dtype, **machine))[0]


def test_layers_run_compiled_on_a_gpu_or_in_fp32(open_kit):
    opened = open_kit([{"name": "one", "strategy": "full", "compile": True}])
    assert plan_of(opened, torch.float32).ways == ("layers run compiled (compile: true)",)
    assert plan_of(opened, torch.bfloat16, is_gpu=True).ways == ("layers run compiled (compile: true)",)
    with pytest.raises(ModelError, match="stage one: compile must be false on a CPU in bf16"):
        plan_of(opened, torch.bfloat16)


def test_moments_in_bytes_take_two_bytes_instead_of_eight(open_kit):
    plans = [
        plan_of(open_kit([{"name": "one", "strategy": "full", "moments": how}]), torch.float32)
        for how in ("fp32", "8-bit")
    ]
    assert plans[0].memory_bytes - plans[1].memory_bytes == 6 * plans[0].num_trained
