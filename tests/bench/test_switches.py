"""What a lever measurement switches off exists, is off inside, and is back afterwards."""

from __future__ import annotations

import pytest
from bench.levers import DEFAULT, LEVERS
from bench.ours.switches import SWITCHES, switched_off


@pytest.mark.slow
def test_every_switch_puts_something_else_in_place_and_takes_it_back():
    from weft.core import twins
    from weft.model.backbone import HFTrunk
    from weft.native import attention
    from weft.train import optimizer

    def now() -> tuple[object, ...]:
        return (
            vars(HFTrunk)["packs"],
            vars(HFTrunk)["_read"],
            attention.use_native,
            optimizer.native,
            optimizer._lazy_rows,
            twins.can_prepack,
        )

    before = now()
    assert len(before) == len(SWITCHES)
    with switched_off(SWITCHES):
        assert not any(here is there for here, there in zip(now(), before, strict=True))
    assert now() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", SWITCHES)
def test_one_switch_leaves_the_others_alone(name: str):
    from weft.model.backbone import HFTrunk

    packs = vars(HFTrunk)["packs"]
    with switched_off([name]):
        assert (vars(HFTrunk)["packs"] is packs) == (name != "packing")


def test_nothing_is_switched_off_by_default_and_nothing_unknown():
    with switched_off(()):
        pass
    with pytest.raises(KeyError), switched_off(["no such lever"]):
        pass


def test_every_lever_changes_one_thing_and_names_known_switches():
    assert LEVERS[DEFAULT].off == ()
    for name, lever in LEVERS.items():
        assert set(lever.off) <= set(SWITCHES)
        changed = [lever.off, lever.recipe, lever.stage, tuple(lever.environment)]
        assert sum(map(bool, changed)) == (name != DEFAULT), name
    assert {switch for lever in LEVERS.values() for switch in lever.off} == set(SWITCHES)
