"""Long documents: which tokens are read, in how many windows, and one answer for all of them."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from weft.core.batch import Target
from weft.core.example import Encoded, Purpose
from weft.core.features import Features, Pooling
from weft.core.layout import Layout
from weft.evaluate.predict import answer_all
from weft.model.folder import locate
from weft.model.tokenizer import load_tokenizer
from weft.model.trunk import load_trunk
from weft.objective.supervised import Supervised
from weft.task.batching import make_batch
from weft.task.classification import ClassificationSpec
from weft.task.documents import WindowPooling, Windows, pool, read, starts
from weft.task.heads import SequenceHead
from weft.task.several import places
from weft.train.feed import Feed
from weft.train.order import Draw

LIMIT = 16  # tokens of a row: 14 of a text, 13 of a pair
LONG = "the good film and the bad book of john smith in paris and the sad old man who likes it in london " * 2
LONG_ZH = "我在北京很好这电影是小说的书人" * 4
MEAN = {"windows": "mean", "pooling": "mean"}


@pytest.fixture(scope="module")
def short(tiny_bert):
    """Return a tokenizer whose rows hold 16 tokens."""
    return load_tokenizer(locate(str(tiny_bert), None, root=tiny_bert), max_tokens=LIMIT)


def _bodies(readings, is_pair=False):
    """Return the windows of each text without their special tokens."""
    assert not is_pair
    return [[piece.tokens[1:-1] for piece in reading.pieces] for reading in readings]


@given(
    length=st.integers(1, 400),
    window=st.integers(1, 40),
    stride=st.none() | st.integers(0, 50),
    most=st.integers(1, 30),
)
def test_windows_cover_a_text_evenly(length, window, stride, most):
    windows = Windows(stride=stride, most=most)
    found = starts(length, window, windows)
    assert found[0] == 0
    assert found == sorted(set(found))
    assert 1 <= len(found) <= most
    shared = min(window // 8 if stride is None else stride, window // 2)
    gaps = [later - start for start, later in pairwise(found)]
    assert not gaps or (max(gaps) - min(gaps) <= 1 and found[-1] == length - window)
    if len(found) < most:  # none was left out: neighbours share enough
        assert all(1 <= gap <= window - shared for gap in gaps)
    if length > window:  # one window less would share less
        assert (len(found) - 1) * (window - shared) + shared < length


def test_a_text_that_fits_is_read_as_without_windows(short):
    texts, pairs = ["a good film", "", "我在北京"], ["a bad film", "old", "小说"]
    for second in (None, pairs):
        assert read(texts, second, short, Windows()) == read(texts, second, short, None)
        assert all(len(reading.pieces) == 1 for reading in read(texts, second, short, Windows()))


@pytest.mark.parametrize("text", [LONG, LONG_ZH])
def test_every_token_of_a_long_text_is_read(short, text):
    (reading,) = read([text], None, short, Windows(stride=3))
    (body,) = short.plain([text])
    at = starts(len(body), 14, Windows(stride=3))
    assert len(at) > 2
    assert reading.num_cut == 0
    assert _bodies([reading]) == [[body[start : start + 14] for start in at]]
    assert {len(piece.tokens) for piece in reading.pieces} == {LIMIT}
    assert {piece.segments for piece in reading.pieces} == {(0,) * LIMIT}


def test_beyond_most_windows_the_rest_is_counted_as_cut(short):
    (body,) = short.plain([LONG])
    for most in (1, 2, 3):
        (reading,) = read([LONG], None, short, Windows(stride=0, most=most))
        assert len(reading.pieces) == most
        assert reading.num_cut == len(body) - 14 * most
    assert reading.pieces[0].tokens[1:-1] == body[:14]
    assert reading.pieces[-1].tokens[1:-1] == body[-14:]


@pytest.mark.parametrize("is_turned", [False, True])
def test_of_a_pair_the_longer_text_is_divided_and_the_other_repeated(short, is_turned):
    both = (LONG, "a sad city") if is_turned else ("a sad city", LONG)
    (reading,) = read([both[0]], [both[1]], short, Windows(stride=0))
    beside, body = short.plain(["a sad city", LONG])
    window = 13 - len(beside)
    at = starts(len(body), window, Windows(stride=0))
    cls, sep = reading.pieces[0].tokens[0], reading.pieces[0].tokens[-1]
    for piece, start in zip(reading.pieces, at, strict=True):
        part = body[start : start + window]
        first, second = (part, beside) if is_turned else (beside, part)
        assert piece.tokens == (cls, *first, sep, *second, sep)
        assert piece.segments == (0,) * (len(first) + 2) + (1,) * (len(second) + 1)
    assert reading.num_cut == 0


def test_the_shorter_text_of_a_pair_has_at_most_half_of_the_row(short):
    first, second = LONG_ZH, LONG_ZH + "好"
    (reading,) = read([first], [second], short, Windows(stride=0))
    (body, _) = short.plain([first, second])
    assert all(piece.tokens[1:7] == body[:6] for piece in reading.pieces)
    assert reading.num_cut == len(body) - 6  # all of the longer one is read


def _classes(kit, **options):
    rows = [
        {"text": LONG, "label": "x"},
        {"text": "a good film", "label": "y"},
        {"text": LONG_ZH, "label": "y"},
        {"text": "old", "label": "x"},
    ]
    task = kit.fit("classification", rows, **{"pooling": "mean", **options})
    return task, kit.rows(rows)


def _loss(task, network, encoded, *, packed=False):
    batch = make_batch([(task.name, one) for one in encoded], {task.name: task}, pad=0, packed=packed)
    return Supervised({task.name: task.loss})(batch, network)[task.name]


def _real(tiny_bert):
    folder = locate(str(tiny_bert), None, root=tiny_bert)
    return load_trunk(folder, wants_lm_head=False, dropout=0.0, device=torch.device("cpu"))


@pytest.mark.parametrize("how", ["mean", "max"])
def test_the_outputs_of_windows_become_one_as_by_hand(kit, short, how):
    task, rows = _classes(kit, windows={"pooling": how, "stride": 0})
    encoded = task.encode(rows, short, Purpose.LEARN)
    assert [len(one.texts) > 1 for one in encoded] == [True, False, True, False]
    network = kit.network(task)
    batch = make_batch([(task.name, one) for one in encoded], {task.name: task}, pad=0)
    outputs = network(batch)[task.name]
    assert (outputs.shape, batch.targets[task.name].weight) == ((4, 2), 4.0)
    for line, one in zip(outputs, encoded, strict=True):
        alone = [Encoded(text.tokens, text.segments, None, None, "w") for text in one.texts]
        each = network(make_batch([(task.name, w) for w in alone], {task.name: task}, pad=0))[task.name]
        expected = each.mean(0) if how == "mean" else each.amax(0)
        torch.testing.assert_close(line, expected, rtol=1e-5, atol=1e-6)


def test_the_mean_of_outputs_is_the_output_of_the_mean_of_vectors():
    torch.manual_seed(0)
    head = SequenceHead(nn.Linear(3, 2), pooling=Pooling.CLS, dropout=0.0)
    layout = Layout.packed([1] * 5)
    states = torch.randn(5, 3)
    one, two = (
        Encoded((0,), None, 0, 0, "a:1", more=(Encoded((1,), None, 0, 0, "a:1"),) * n) for n in (2, 1)
    )
    target = Target(torch.arange(5), {"windows": places([one, two])}, 2.0, 2)
    means = torch.stack([states[:3].mean(0), states[3:].mean(0)])
    torch.testing.assert_close(head(Features(states, layout), target), head.out(means))


@pytest.mark.parametrize("how", WindowPooling)
def test_gradients_of_pooled_outputs_are_those_by_hand(how):
    outputs = torch.tensor([[1.0], [5.0], [3.0], [2.0]], requires_grad=True)
    one, two = (
        Encoded((0,), None, 0, 0, "a:1", more=(Encoded((1,), None, 0, 0, "a:1"),) * n) for n in (2, 0)
    )
    pooled = pool(outputs, places([one, two]), how)
    (pooled * torch.tensor([[1.0], [10.0]])).sum().backward()
    assert outputs.grad is not None
    expected = {"mean": [1 / 3, 1 / 3, 1 / 3, 10.0], "max": [0.0, 1.0, 0.0, 10.0]}[how]
    assert outputs.grad.flatten().tolist() == pytest.approx(expected)
    assert pooled.flatten().tolist() == pytest.approx({"mean": [3.0, 2.0], "max": [5.0, 2.0]}[how])


def test_documents_that_fit_learn_bit_for_bit_as_without_windows(kit, short):
    texts = [{"text": text, "label": label} for text, label in (("a good film", "x"), ("old", "y"))]
    found = []
    for options in ({}, {"windows": "max"}):
        task = kit.fit("classification", texts, pooling="mean", **options)
        network = kit.network(task)
        loss = _loss(task, network, task.encode(kit.rows(texts), short, Purpose.LEARN))
        loss.total.backward()
        found.append([loss.total.detach(), *(p.grad for p in network.parameters() if p.grad is not None)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("how", ["mean", "max"])
def test_packed_is_padded_and_a_batch_is_its_rows(kit, short, tiny_bert, how):
    task, rows = _classes(kit, windows=how)
    encoded = task.encode(rows, short, Purpose.LEARN)
    network = kit.network(task, trunk=_real(tiny_bert)).eval()
    found = []
    for packed in (False, True):
        network.zero_grad()
        loss = _loss(task, network, encoded, packed=packed)
        loss.total.backward()
        found.append(
            (loss.total.detach(), [p.grad.clone() for p in network.parameters() if p.grad is not None])
        )
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    each = [_loss(task, network, [one]) for one in encoded]
    torch.testing.assert_close(sum(one.total for one in each), found[0][0], rtol=1e-5, atol=1e-5)
    together = kit.answers(network, task, encoded)
    for one, answer in zip(encoded, together, strict=True):
        alone = kit.answers(network, task, [one])[0]
        assert answer.label == alone.label
        assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-6)


def test_several_heads_on_the_same_documents_are_computed_together_and_each_pools_its_way(kit, short):
    tasks = {}
    for name, options in (("mean", {"windows": "mean"}), ("max", {"windows": "max"}), ("cut", {})):
        task, rows = _classes(kit, **options)
        tasks[name] = type(task).from_config(name, task.config())
    encoded = {name: task.encode(rows, short, Purpose.ANSWER) for name, task in tasks.items()}
    network = kit.network(*tasks.values()).eval()
    found = answer_all(network, tasks, encoded, pad=0, budget=4096, dtype=torch.float32)
    num_windows = len({text.key for one in encoded["mean"] for text in one.texts})
    assert found.num_texts <= num_windows + 4
    for name, task in tasks.items():
        alone = kit.answers(network, task, encoded[name])
        shares = [answer.probabilities["x"] for answer in found.answers[name]]
        assert shares == pytest.approx([answer.probabilities["x"] for answer in alone], abs=1e-6)
    firsts = [found.answers[name][0].probabilities["x"] for name in tasks]
    assert len(set(firsts)) == 3


def test_a_document_larger_than_the_budget_passes_alone(kit, short):
    words = random.Random(0).choices(("good", "bad", "old", "new"), k=40 * 14)
    rows = [
        {"text": " ".join(words), "label": "x"},
        *({"text": t, "label": "y"} for t in ("a", "old", "sad")),
    ]
    task = kit.fit("classification", rows, pooling="mean", windows={"stride": 0, "most": 40})
    encoded = task.encode(kit.rows(rows), short, Purpose.LEARN)
    assert len(encoded[0].texts) == 40
    feed = Feed({task.name: task}, {task.name: encoded}, pad=0, budget=64)
    batches = feed(tuple(Draw(task.name, row) for row in range(4)))
    assert sorted(batch.targets[task.name].num_examples for batch in batches) == [1, 3]
    assert sorted(batch.layout.num_rows for batch in batches) == [3, 40]
    assert sum(batch.targets[task.name].weight for batch in batches) == 4.0
    network = kit.network(task).eval()
    found = answer_all(
        network, {task.name: task}, {task.name: encoded}, pad=0, budget=64, dtype=torch.float32
    )
    assert len(found.answers[task.name]) == 4
    assert found.losses[task.name].weight == 4.0


def test_regression_answers_a_document_in_the_units_of_the_data(kit, short):
    rows = [{"text": LONG, "score": 1000.0}, {"text": "a good film", "score": 1010.0}]
    task = kit.fit("regression", rows, **MEAN)
    encoded = task.encode(kit.rows(rows), short, Purpose.ANSWER)
    answers = kit.answers(kit.network(task), task, encoded)
    assert [answer.value for answer in answers] == pytest.approx([1005, 1005], abs=task.std)
    assert kit.fit("regression", rows).texts.windows is None


def test_a_task_saved_before_there_were_windows_comes_back(kit):
    task, _ = _classes(kit, windows={"pooling": "max", "stride": 2, "most": 3})
    config = task.config()
    assert config["windows"] == {"pooling": "max", "stride": 2, "most": 3}
    assert task.stock().windows == config["windows"]
    assert type(task).from_config("t", config) == task
    del config["windows"]
    assert type(task).from_config("t", config).texts.windows is None


def test_the_short_form_and_what_is_refused():
    spec = {"kind": "classification", "train": "x.csv"}
    assert ClassificationSpec.model_validate({**spec, "windows": "max"}).windows == Windows(
        pooling=WindowPooling.MAX
    )
    for wrong in ("median", {"most": 0}, {"stride": -1}, {"overlap": 3}):
        with pytest.raises(ValidationError, match="windows"):
            ClassificationSpec.model_validate({**spec, "windows": wrong})
    forms = ClassificationSpec.model_json_schema()["properties"]["windows"]["anyOf"]
    assert [form.get("$ref", form.get("type")) for form in forms] == [
        "#/$defs/Windows",
        "#/$defs/WindowPooling",
        "null",
    ]


def test_max_ignores_places_without_a_window():
    one = Encoded((0,), None, 0, 0, "a:1")
    two = Encoded((0,), None, 0, 0, "a:1", more=(Encoded((1,), None, 0, 0, "a:1"),))
    pooled = pool(torch.tensor([[-5.0], [-7.0], [-6.0]]), places([one, two]), WindowPooling.MAX)
    assert pooled.tolist() == [[-5.0], [-6.0]]
    assert not math.isinf(float(pooled.sum()))
