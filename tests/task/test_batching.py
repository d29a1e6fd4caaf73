"""Batches: equal texts share a row, addresses are flat, groups stay within the budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.core.batch import Target
from weft.core.example import Encoded, Text
from weft.core.features import Pooling
from weft.objective.supervised import Supervised
from weft.task.batching import are_distinct, group_by_length, make_batch, make_plain_batch
from weft.task.classification import Classification
from weft.task.generation import Generation
from weft.task.regression import Regression
from weft.task.schemes import Scheme
from weft.task.supervision import Supervised as Answered
from weft.task.tagging import Tagging, Words
from weft.task.texts import Texts

COLUMNS = {"text": "text", "pair": None}
TASKS = {
    "label": Classification("label", Texts(COLUMNS, Pooling.MEAN), ("a", "b", "c")),
    "many": Classification("many", Texts(COLUMNS, Pooling.LAST), ("a", "b"), multi_label=True),
    "score": Regression("score", Texts(COLUMNS, Pooling.CLS), mean=2.0, std=3.0),
    "tags": Tagging("tags", {}, ("O", "B-X", "I-X"), Scheme.BIO),
    "text": Generation("text", {}),
}

UNHURRIED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def _items(draw: st.DrawFn) -> list[tuple[str, Encoded]]:
    """Draw examples of any tasks; few tokens and lengths, so that many texts are equal."""
    items = []
    for number in range(draw(st.integers(1, 12))):
        tokens = tuple(draw(st.lists(st.integers(1, 2), min_size=1, max_size=5)))
        segments = tuple(token % 2 for token in tokens) if draw(st.booleans()) else None
        name = draw(st.sampled_from(sorted(TASKS)))
        match name:
            case "label":
                target = draw(st.integers(0, 2))
            case "many":
                target = (float(draw(st.booleans())), float(draw(st.booleans())))
            case "score":
                target = draw(st.floats(-5, 5))
            case "tags":
                positions = tuple(i for i in range(len(tokens)) if draw(st.booleans()))
                labels = tuple(draw(st.integers(0, 2)) for _ in positions)
                target = Words(("w",) * len(positions), tuple(range(len(positions))), positions, labels)
            case _:
                target = Answered.since(draw(st.integers(0, len(tokens))), len(tokens))
        items.append((name, Encoded(tokens, segments, target, "gold", where=f"f:{number}")))
    return items


def _losses_and_gradients(kit, batch):
    network = kit.network(*TASKS.values())
    losses = Supervised({name: task.loss for name, task in TASKS.items()})(batch, network)
    sum(loss.total for loss in losses.values()).backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {name: (loss.total.detach(), loss.weight) for name, loss in losses.items()}, gradients


@UNHURRIED
@given(items=_items(), packed=st.booleans())
def test_sharing_rows_changes_neither_losses_nor_gradients(kit, items, packed):
    shared = make_batch(items, TASKS, pad=0, packed=packed)
    assert shared.layout.num_rows == len({(one.tokens, one.segments) for _, one in items})
    losses, gradients = _losses_and_gradients(kit, shared)
    apart: dict = {}
    total: dict = {}
    for item in items:
        one_losses, one_gradients = _losses_and_gradients(kit, make_batch([item], TASKS, pad=0))
        for name, (value, weight) in one_losses.items():
            old = apart.get(name, (0.0, 0.0))
            apart[name] = (old[0] + value, old[1] + weight)
        for name, gradient in one_gradients.items():
            total[name] = total.get(name, 0) + gradient
    assert losses.keys() == apart.keys()
    for name, (value, weight) in losses.items():
        torch.testing.assert_close(value, apart[name][0], rtol=1e-4, atol=1e-4)
        assert weight == apart[name][1]
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, total[name], rtol=1e-3, atol=1e-4)


@UNHURRIED
@given(items=_items(), pad=st.integers(0, 9))
def test_padded_and_packed_give_the_same_outputs(kit, items, pad):
    network = kit.network(*TASKS.values()).eval()
    padded, packed = (network(make_batch(items, TASKS, pad=pad, packed=packed)) for packed in (False, True))
    assert padded.keys() == packed.keys()
    for name in padded:
        ours, theirs = kit.tensor(padded[name]), kit.tensor(packed[name])
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@UNHURRIED
@given(items=_items())
def test_a_batch_holds_its_texts_and_nothing_else(items):
    batch = make_batch(items, TASKS, pad=7)
    mask = batch.layout.mask_BL()
    assert (batch.tokens[~mask] == 7).all()
    texts = list(dict.fromkeys((one.tokens, one.segments) for _, one in items))
    assert [tuple(row[keep].tolist()) for row, keep in zip(batch.tokens, mask, strict=True)] == [
        t for t, _ in texts
    ]
    packed = make_batch(items, TASKS, pad=7, packed=True)
    assert packed.tokens.tolist() == [token for tokens, _ in texts for token in tokens]
    assert packed.tokens.shape == (packed.layout.num_tokens,)
    if all(segments is None for _, segments in texts):
        assert batch.segments is None
    else:
        expected = [value for tokens, segments in texts for value in segments or (0,) * len(tokens)]
        assert batch.segments[mask].tolist() == packed.segments.tolist() == expected
        assert (batch.segments[~mask] == 0).all()
    for name, target in batch.targets.items():
        own = [one for owner, one in items if owner == name]
        assert target.num_examples == len(own)
        assert [texts[row] for row in target.rows_R.tolist()] == [(one.tokens, one.segments) for one in own]
    assert list(batch.targets) == [name for name in TASKS if any(owner == name for owner, _ in items)]


def _same(one, other):
    """Whether two values hold the same: tensors, and whatever holds tensors."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if is_dataclass(one):
        return all(_same(getattr(one, name), getattr(other, name)) for name in (f.name for f in fields(one)))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return one == other


@UNHURRIED
@given(items=_items(), packed=st.booleans(), pad=st.integers(0, 9))
def test_a_plain_batch_is_what_looking_for_shared_texts_gives(items, packed, pad):
    name = items[0][0]
    own = list({one.digest: one for owner, one in items if owner == name}.values())
    assert are_distinct(own)
    assert not are_distinct([*own, own[-1]])
    plain = make_plain_batch(name, TASKS[name], own, pad=pad, packed=packed)
    # One more task on the first text: looked for and found, so rows are as before, and the other target tells nothing new.
    other = Classification("other", Texts(COLUMNS, Pooling.MEAN), ("a", "b"))
    extra = ("other", Encoded(own[0].tokens, own[0].segments, 0, "a", "g:1"))
    general = make_batch(
        [*((name, one) for one in own), extra], {**TASKS, "other": other}, pad=pad, packed=packed
    )
    assert list(general.targets) == [name, "other"]
    targets = {name: general.targets[name]}
    assert _same(plain, replace(general, targets=targets))
    assert _same(plain, make_batch([(name, one) for one in own], TASKS, pad=pad, packed=packed))


def test_a_row_is_named_after_the_first_that_brought_it():
    items = [("label", Encoded((1, 2), None, 0, "a", "f:1")), ("label", Encoded((3,), None, 0, "a", "f:2"))]
    items.append(("score", Encoded((1, 2), None, 1.0, 1.0, "g:9")))
    assert make_batch(items, TASKS, pad=0).ids == ("f:1", "f:2")


def test_equal_tokens_in_other_segments_are_another_row():
    items = [("label", Encoded((1, 2), segments, 0, "a", "f:1")) for segments in ((0, 1), (0, 0), (0, 1))]
    batch = make_batch(items, TASKS, pad=0)
    assert batch.segments.tolist() == [[0, 1], [0, 0]]
    assert batch.targets["label"].rows_R.tolist() == [0, 1, 0]


def test_token_addresses_are_flat_whatever_the_layout():
    tagged = Encoded((1, 2, 1), None, Words(("x", "y"), (0, 1), (0, 2), (1, 0)), (), "f:2")
    spoken = Encoded((2, 1, 1, 2), None, Answered.since(2, 4), "", "f:3")
    items = [("label", Encoded((1,), None, 0, "a", "f:1")), ("tags", tagged), ("text", spoken)]
    for packed in (False, True):
        targets = make_batch(items, TASKS, pad=0, packed=packed).targets
        assert targets["tags"].values["positions"].tolist() == [1, 3]
        assert targets["text"].values["positions"].tolist() == [5, 6]
        assert targets["text"].values["labels"].tolist() == [1, 2]


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 100), st.booleans())
def test_groups_cover_every_row_once_and_stay_within_the_budget(lengths, budget, in_order):
    groups = group_by_length(lengths, budget=budget, in_order=in_order)
    flat = [index for group in groups for index in group]
    assert sorted(flat) == list(range(len(lengths)))
    assert not in_order or flat == sorted(flat)
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[index] for index in group) <= budget
    for left, right in pairwise(groups):  # no group could have taken the next row
        assert (len(left) + 1) * max(lengths[index] for index in (*left, right[0])) > budget


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), max_size=40), st.integers(30, 200))
def test_sorting_never_needs_more_groups(lengths, budget):
    in_order, by_length = (group_by_length(lengths, budget=budget, in_order=flag) for flag in (True, False))
    assert len(by_length) <= len(in_order)


@pytest.mark.parametrize("packed", [False, True])
def test_gold_and_no_gold_together_are_answered_and_not_learnt(packed):
    items = [
        ("label", Encoded((1, 2), None, 1, "b", "f:1")),
        ("label", Encoded((3,), None, None, None, "f:2")),
    ]
    target = make_batch(items, TASKS, pad=0, packed=packed).targets["label"]
    assert (target.weight, dict(target.values), target.rows_R.tolist()) == (0.0, {}, [0, 1])


def _choices(*texts: tuple[int, ...], where: str = "x.jsonl:1", target: int = 0) -> Encoded:
    first, *more = (Text(tokens, None) for tokens in texts)
    return Encoded(first.tokens, None, target, target, where, more=tuple(more))


@pytest.mark.parametrize("packed", [False, True])
def test_every_text_of_an_example_is_a_row_and_equal_ones_share_it(packed):
    told = []

    class Listening:
        def collate(self, encoded, rows, layout):
            told.append((list(encoded), list(rows), layout.num_rows))
            return Target(torch.tensor(rows), {}, 0.0, len(encoded))

    one, two = _choices((1, 2), (3,), (4, 5, 6)), _choices((3,), (7, 8), where="x.jsonl:2")
    batch = make_batch([("a", one), ("a", two)], {"a": Listening()}, pad=0, packed=packed)
    assert told == [([one, two], [0, 1, 2, 1, 3], 4)]
    assert batch.layout.lengths_B.tolist() == [2, 1, 3, 2]
    assert batch.ids == ("x.jsonl:1", "x.jsonl:1", "x.jsonl:1", "x.jsonl:2")
    plain = make_plain_batch("a", Listening(), [one, _choices((9,), (7, 8))], pad=0, packed=packed)
    assert told[1][1:] == ([0, 1, 2, 3, 4], 5)
    assert plain.layout.lengths_B.tolist() == [2, 1, 3, 1, 2]
    assert not are_distinct([one, two])
    assert are_distinct([one, _choices((9,), (7, 8))])


def test_an_example_of_several_texts_is_measured_whole():
    one = _choices((1, 2), (3,), (4, 5, 6))
    assert (one.num_tokens, one.longest, len(one.texts)) == (6, 3, 3)
    assert one.identity != one.key
    assert _choices((1, 2)).identity == Text((1, 2), None).key
    assert _choices((1, 2), (3,)).identity != _choices((1, 2), (4,)).identity


def test_groups_count_all_rows_of_an_example():
    assert group_by_length([3, 3, 3], budget=12, rows=[2, 2, 2]) == [[0, 1], [2]]
    assert group_by_length([3, 3, 3], budget=2, rows=[2, 2, 2]) == [[0], [1], [2]]
