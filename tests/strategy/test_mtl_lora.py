"""MTL-LoRA: rows of each task as the formula has them, also in mixed batches, and as a plain LoRA each.

Legend: B rows, L positions, I input width, O output width, R rank, U up-projections, K tasks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.strategy.test_low_rank import drawn, made
from torch import Tensor

from weft.core.layout import Layout
from weft.core.parts import adapter_of, routes_to, tasks_and_parts
from weft.core.routing import NONE, Routing, routed, routes_of
from weft.core.sites import SiteMap
from weft.core.table import Role
from weft.errors import StrategyError
from weft.strategy.adapters import extract, merged, of_task, restore
from weft.strategy.apply import apply
from weft.strategy.edit import edited
from weft.strategy.lora import LoraRule
from weft.strategy.mtl_lora import MtlLora, MtlLoraRule, MtlLoraSite, mixing
from weft.strategy.plan import CarriedAdapter, plan

TASKS = ("p", "q", "r")
ROUTES = tuple(f"one/{task}" for task in TASKS)
OPTIONS: dict[str, Any] = {
    "rank": 2,
    "alpha": 3.0,
    "up_projections": 4,
    "temperature": 0.5,
    "dropout": 0.0,
    "tasks": list(TASKS),
    "kind": "linear",
}


def site(kind: str = "linear", *, names: tuple[str, ...] = ("one",), dropout: float = 0.0) -> MtlLoraSite:
    layer = edited(made(kind, 8, 6).requires_grad_(requires_grad=False), MtlLoraSite)
    for at, name in enumerate(names):
        shapes = ((2, 8), (6, 8), (3, 2, 2), (3, 4))
        tensors = {
            table: drawn(*shape, seed=10 * at + index)
            for index, (table, shape) in enumerate(zip(MtlLoraSite.tables, shapes, strict=True))
        }
        layer.put(name, {**OPTIONS, "dropout": dropout, "kind": kind}, tensors, edit=MtlLoraSite)
        for table in MtlLoraSite.tables:
            getattr(layer, table)[name].requires_grad_()
    return layer


def formula(layer: MtlLoraSite, inputs: Tensor, task: str, name: str = "one") -> Tensor:
    """Return what ``name`` adds for rows of ``task``: arXiv:2410.09437, written out."""
    place, options = TASKS.index(task), layer.mtl_options[name]
    weights_U = layer.mtl_weights[name][place]
    exponentials_U = (weights_U / options["temperature"]).exp()
    narrow = inputs @ layer.mtl_A[name].t() @ layer.mtl_mix[name][place].t()
    added = torch.zeros(())
    for share, up_OR in zip(
        exponentials_U / exponentials_U.sum(), layer.mtl_B[name].split(2, dim=1), strict=True
    ):
        added = added + share * (narrow @ up_OR.t())
    return added * options["alpha"] / options["rank"]


def base(layer: MtlLoraSite, inputs: Tensor) -> Tensor:
    weight = layer.weight.t() if "Conv1D" in type(layer).__name__ else layer.weight
    return torch.nn.functional.linear(inputs, weight, layer.bias)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_a_mixed_batch_are_as_the_formula_has_them(kind: str, packed: bool) -> None:
    layer = site(kind)
    rows, lengths = [2, NONE, 0, 1, 2], [5, 5, 5, 5, 5] if not packed else [5, 2, 7, 1, 10]
    layout = Layout.packed(lengths) if packed else Layout.padded(lengths)
    inputs = drawn(1, 25, 8, seed=5) if packed else drawn(5, 5, 8, seed=5)
    with routed(layer, Routing.of(ROUTES, rows, layout)):
        outputs = layer(inputs)
    pieces = zip(
        inputs[0].split(lengths) if packed else inputs,
        outputs[0].split(lengths) if packed else outputs,
        rows,
        strict=True,
    )
    for piece, found, row in pieces:
        if row == NONE:
            assert torch.equal(found, base(layer, inputs)[0, 5:7] if packed else base(layer, inputs)[1])
        else:
            expected = base(layer, piece) + formula(layer, piece, TASKS[row])
            assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_formula_and_shared_ones_come_from_all_rows() -> None:
    layer, twin = site(), site()
    inputs, seen = drawn(3, 4, 8, seed=5).requires_grad_(), drawn(3, 4, 6, seed=6)
    copy = inputs.detach().clone().requires_grad_()
    with routed(layer, Routing.of(ROUTES, [1, 0, 1], Layout.padded([4, 4, 4]))):
        layer(inputs).backward(seen)
    rowwise = [base(twin, row) + formula(twin, row, task) for row, task in zip(copy, "qpq", strict=True)]
    torch.stack(rowwise).backward(seen)
    assert torch.allclose(inputs.grad, copy.grad, atol=1e-5)
    for table in MtlLoraSite.tables:
        ours, theirs = getattr(layer, table)["one"].grad, getattr(twin, table)["one"].grad
        assert theirs.abs().max() > 0
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5), table
    for table in ("mtl_mix", "mtl_weights"):
        grad_K = getattr(layer, table)["one"].grad.flatten(1).abs().sum(1)
        assert grad_K[2] == 0 < grad_K[:2].min(), "nobody asks r"


def test_without_routing_all_parts_act_as_adapters_of_their_own_would() -> None:
    layer, inputs = site(), drawn(2, 4, 8, seed=5)
    expected = base(layer, inputs) + sum(formula(layer, inputs, task) for task in TASKS)
    assert torch.allclose(layer(inputs), expected, rtol=1e-5, atol=1e-5)
    with routed(layer, Routing.of(["one"], [0, NONE], Layout.padded([4, 4]))):
        named = layer(inputs)  # a route to the adapter leads to the whole of it
    assert torch.allclose(named[0], expected[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(named[1], base(layer, inputs)[1])


def test_an_adapter_that_nobody_routes_acts_beside_one_that_is() -> None:
    layer, inputs = site(names=("one", "two")), drawn(2, 4, 8, seed=5)
    with routed(layer, Routing.of(ROUTES, [0, 2], Layout.padded([4, 4]))):
        outputs = layer(inputs)
    whole = sum(formula(layer, inputs, task, "two") for task in TASKS)
    own = torch.stack([formula(layer, inputs[0], "p"), formula(layer, inputs[1], "r")])
    assert torch.allclose(outputs, base(layer, inputs) + whole + own, rtol=1e-5, atol=1e-5)


def test_dropout_acts_on_the_updates_input_and_while_training_only() -> None:
    layer, inputs = site(dropout=0.5), drawn(2, 4, 8, seed=5)
    plain = site()(inputs)
    assert torch.equal(layer.eval()(inputs), plain)
    torch.manual_seed(0)
    dropped = layer.train()(inputs)
    torch.manual_seed(0)
    thinned = torch.nn.functional.dropout(inputs, 0.5)
    expected = base(layer, inputs) + sum(formula(layer, thinned, task) for task in TASKS)
    assert torch.allclose(dropped, expected, rtol=1e-5, atol=1e-5)


def test_the_colder_the_more_one_up_projection_is_preferred() -> None:
    weights_KU = torch.tensor([[0.0, 1.0, 0.5]])
    mix_KRR = torch.tensor([[[2.0]]])
    cold, warm = (mixing(mix_KRR, weights_KU, temperature=value)[0, 0] for value in (0.01, 1e6))
    assert torch.allclose(cold, torch.tensor([0.0, 2.0, 0.0]), atol=1e-6)
    assert torch.allclose(warm, torch.full((3,), 2 / 3), atol=1e-5)


# ------------------------------------------------------------------------------- a whole network


def entered(toy, *, tasks=("a", "b"), rule=None, adapter="one", carried=(), sites=None):
    """Return the map of a toy with an MTL-LoRA whose tensors are drawn, and its table."""
    if sites is None:
        network = toy.network()
        sites = SiteMap(network, toy.describe(network))
    found = plan(
        sites.view,
        [rule or MtlLoraRule(rank=2, up_projections=3)],
        tasks=tasks,
        stage_lr=None,
        adapter=adapter,
        carried=carried,
    )
    sites, table = apply(sites, found, describe=toy.describe, seed=0)
    return sites, table


def shake(sites):
    for index, (path, parameter) in enumerate(sites.parameters()):
        if ".mtl_" in path:
            parameter.data.add_(drawn(*parameter.shape, seed=index), alpha=0.3)


def rows_of(sites, routes, rows):
    tokens_BL = torch.arange(22).reshape(2, 11) % 11
    routing = Routing.of(routes, rows, Layout.padded([11, 11]))
    with torch.no_grad(), routed(sites.network.trunk, routing):
        return sites.network.trunk.model(tokens_BL)[1]


def test_it_starts_as_the_authors_do(toy):
    sites, table = entered(toy)
    (state,) = extract(sites, table)
    for path, tensor in state.tensors.items():
        match path.split(".")[-2]:
            case "mtl_B":
                assert not tensor.any()
            case "mtl_mix":
                assert torch.equal(tensor, torch.eye(2).expand(2, 2, 2))
            case "mtl_weights":
                assert tensor.abs().max() <= 3**-0.5
                assert len(tensor.unique()) == tensor.numel(), "equal weights would keep all B equal"
            case _:
                assert tensor.any()
    assert sites.network.routes == {"a": ("one/a",), "b": ("one/b",)}
    assert (state.tasks, state.parts) == (("a", "b"), ("a", "b"))
    assert state.config["sites"]["layers.0.ffn.down"]["tasks"] == ["a", "b"]


def test_a_task_alone_is_a_lora_and_folds_into_weights(toy):
    sites, table = entered(toy)
    shake(sites)
    (state,) = extract(sites, table)
    mixed = rows_of(sites, ["one/a", "one/b"], [0, 1])
    for row, task in enumerate("ab"):
        (alone,) = of_task([state], task)
        assert (alone.method, alone.tasks, alone.parts) == ("lora", (task,), ())
        network = toy.network()
        fresh = SiteMap(network, toy.describe(network))
        weights = {path: value.detach().clone() for path, value in fresh.parameters()}
        restore(fresh, alone)
        fresh = SiteMap(network, toy.describe(network))
        assert torch.allclose(rows_of(fresh, ["one"], [0, 0])[row], mixed[row], rtol=1e-5, atol=1e-5)
        folded = {**weights, **merged(weights, [alone])}
        network = toy.network()
        plain = SiteMap(network, toy.describe(network))
        for path, parameter in plain.parameters():
            parameter.data.copy_(folded[path])
        with torch.no_grad():
            found = network.trunk.model(torch.arange(22).reshape(2, 11) % 11)[1]
        assert torch.allclose(found[row], mixed[row], rtol=1e-5, atol=1e-5)
    with pytest.raises(StrategyError, match="must be for one task to be folded into weights"):
        merged(dict(sites.parameters()), [state])


def test_what_is_for_others_is_no_part_of_a_task(toy):
    sites, table = entered(toy)
    (state,) = extract(sites, table)
    shared = replace(state, name="shared", tasks=(), parts=())
    assert of_task([state, shared], "c") == (shared,)
    with pytest.raises(StrategyError, match="c must be one of its parts a, b, but is not"):
        MtlLora().part(state, "c")
    network = toy.network()
    with pytest.raises(StrategyError, match="c must be one of its parts"):
        restore(SiteMap(network, toy.describe(network)), replace(state, parts=("a", "c")))


def test_a_round_trip_keeps_routes_and_bits(toy):
    sites, table = entered(toy)
    shake(sites)
    (state,) = extract(sites, table)
    network = toy.network()
    fresh = SiteMap(network, toy.describe(network))
    restore(fresh, state)
    fresh = SiteMap(network, toy.describe(network))
    assert network.routes == sites.network.routes
    (again,) = extract(fresh, ["one"])
    assert (again.tasks, again.parts, again.config) == (state.tasks, state.parts, state.config)
    routes = ["one/a", "one/b"]
    assert torch.equal(rows_of(fresh, routes, [1, 0]), rows_of(sites, routes, [1, 0]))


def test_it_goes_on_with_fewer_tasks_and_keeps_the_parts_of_others(toy):
    sites, table = entered(toy)
    shake(sites)
    states = extract(sites, table)
    before = rows_of(sites, ["one/a", "one/b"], [0, 1])
    carried = [CarriedAdapter.of(state, Role.TRAINED) for state in states]
    sites, second = entered(toy, tasks=("b",), carried=carried, sites=sites)
    assert torch.equal(rows_of(sites, ["one/a", "one/b"], [0, 1]), before)
    assert sites.network.routes == {"a": ("one/a",), "b": ("one/b",)}
    assert {row.owner for row in second.trained()} == {"adapter:one", "head:b"}
    more = [*states[0].tasks, "c"]
    with pytest.raises(StrategyError, match="must keep the options of adapter 'one'"):
        entered(toy, tasks=more, carried=carried, sites=sites)


def test_others_may_act_on_the_same_rows(toy):
    sites, table = entered(toy)
    shake(sites)
    carried = [CarriedAdapter.of(state, Role.FROZEN) for state in extract(sites, table)]
    groups = [("one/a", "two/a"), ("one/b", "two/b")]
    before = rows_of(sites, ["one/a", "one/b"], [0, 1])
    sites, _ = entered(toy, adapter="two", carried=carried, sites=sites)
    assert sites.network.routes == dict(zip("ab", groups, strict=True))
    assert torch.equal(rows_of(sites, groups, [0, 1]), before), "a new one changes nothing at first"
    shake(sites)
    after = rows_of(sites, groups, [0, 1])
    assert not torch.allclose(after, before, atol=1e-3)
    assert torch.equal(rows_of(sites, [groups[1], groups[0]], [1, 0]), after)
    for rule, name in ((LoraRule(rank=2), None), (LoraRule(rank=2, per_task=True), "own")):
        sites, table = entered(toy)
        one, _ = entered(toy, adapter="own", carried=carried, rule=rule, sites=sites)
        own = {task: () if name is None else (f"own-{task}",) for task in "ab"}
        assert one.network.routes == {task: (f"one/{task}", *own[task]) for task in "ab"}


def test_a_plan_knows_which_part_rows_will_take(bert):
    made = plan(bert, [MtlLoraRule()], tasks=["sentiment", "entities"], stage_lr=None, adapter="s")
    assert made.routes == {"sentiment": ("s/sentiment",), "entities": ("s/entities",)}


def test_routes_are_taken_apart_as_they_were_made():
    for tasks, parts in ((("a", "b"), ()), (("a", "b"), ("x", "y")), ((), ())):
        routes = routes_of([routes_to("one", tasks, parts), {"z": "two/a", "a": "two"}])
        assert tasks_and_parts("one", routes) == (tasks, parts)
    assert [adapter_of(route) for route in ("one", "one/a")] == ["one", "one"]
