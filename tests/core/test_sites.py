"""Every name that a recipe may give a task is a place for a head, whatever modules call their own attributes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from weft.core.network import Heads, Network
from weft.core.sites import SiteMap
from weft.core.view import ModelView, ParamInfo, Site, SiteKind
from weft.recipe.names import check_name

OWN_NAMES = sorted(
    name for name in {*dir(nn.Module), *dir(nn.ModuleDict), *vars(nn.Module())} if not name.startswith("_")
)


def two_heads(name: str) -> SiteMap:
    """Return a network with a head called ``name`` and one called ``other``, each ``out``, a linear layer."""
    trunk = nn.Module()
    trunk.model = nn.Module()
    heads = {task: nn.ModuleDict({"out": nn.Linear(3, 2)}) for task in (name, "other")}
    sites = tuple(
        Site(
            f"heads.{task}.out",
            SiteKind.LINEAR,
            "out",
            (ParamInfo(f"heads.{task}.out.weight", (2, 3)), ParamInfo(f"heads.{task}.out.bias", (2,))),
        )
        for task in heads
    )
    return SiteMap(Network(trunk, heads), ModelView("toy", sites, {"": 0}))


def test_modules_have_names_that_tasks_may_want() -> None:
    assert {"train", "training", "keys", "type", "forward", "items", "eval", "half", "pop"} <= set(OWN_NAMES)


@pytest.mark.parametrize("name", OWN_NAMES)
def test_a_head_may_have_the_name_of_an_attribute(name: str) -> None:
    sites = two_heads(check_name(name))
    head = sites.network.heads[name]["out"]
    assert sites.module(f"heads.{name}.out") is head
    assert [path for path, _ in sites.parameters()][:2] == [
        f"heads.{name}.out.weight",
        f"heads.{name}.out.bias",
    ]
    assert dict(sites.network.named_parameters())[f"heads.{name}.out.weight"] is head.weight
    sites.network.train()
    sites.network.eval()
    assert not head.training
    sites.network.to(torch.float64)
    assert head.weight.dtype is torch.float64


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True))
@example("0")
@example("train-2")
def test_any_plain_name_will_do(name: str) -> None:
    heads = Heads({name: nn.Identity()})
    assert list(heads) == [name]
    assert name in heads
    assert isinstance(heads[name], nn.Identity)


def test_a_site_under_such_a_name_can_be_replaced() -> None:
    sites = two_heads("train")
    wider, other = nn.Linear(3, 5), sites.module("heads.other.out")
    sites.replace("heads.train.out", wider)
    assert sites.module("heads.train.out") is wider
    assert sites.module("heads.other.out") is other
    assert sites.network.heads["train"]["out"] is wider
