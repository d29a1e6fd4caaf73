"""What every family must keep, on samples of each: layouts, sharing of rows, cuts, saving and answering."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from weft.core.example import Answer, Dropped, Encoded, Purpose, Row
from weft.core.features import Pooling
from weft.core.network import Inference
from weft.core.stock import StockForm
from weft.errors import ModelError
from weft.objective.supervised import Supervised
from weft.recipe.spec import TaskSpec
from weft.task.base import Calibrates, Divides
from weft.task.batching import cut_apart, make_batch
from weft.task.registry import FAMILIES

NAMES = (
    *("classification", "multi_label", "pairs", "regression", "ordinal", "choice"),
    *("tagging", "spans", "qa", "generation"),
)
SECOND = {
    "pairs": "a movie",
    "regression": "a movie",
    "choice": "a movie | a book",
    "qa": "it is a movie of london",
}  # texts of a plain question
_ANSWERS = ("label", "score", "stars", "tags", "entities", "answers", "output")
FORMS = {
    "choice": (StockForm.CHOICE, "multiple-choice"),
    "tagging": (StockForm.TOKENS, "token-classification"),
    "spans": (StockForm.TOKENS, "token-classification"),
    "qa": (StockForm.SPAN, "question-answering"),
}


def assert_near(one, other):
    """Hold two answers against each other: the same, but for the rounding of numbers."""
    first, second = one.to_json(), other.to_json()
    assert first.keys() == second.keys()
    for key, value in first.items():
        is_number = isinstance(value, float) or key == "probabilities"
        assert value == (pytest.approx(second[key], rel=1e-5, abs=2e-5) if is_number else second[key])


def test_every_family_has_a_sample(kit):
    assert {sample.kind or name for name, sample in kit.samples.items()} == set(FAMILIES)
    assert set(NAMES) == set(kit.samples)


def test_the_registry_names_each_family_by_its_kind():
    for kind, family in FAMILIES.items():
        assert family.kind == kind
        assert issubclass(family.spec_type, TaskSpec)
        assert family.spec_type.model_validate({"kind": kind, "train": "x.csv"}).kind == kind
    with pytest.raises(TypeError):
        FAMILIES["new"] = FAMILIES["tagging"]


@pytest.mark.parametrize("name", NAMES)
def test_padded_and_packed_give_the_same_loss_and_gradients(kit, name):
    bench = kit.bench(name)
    found = []
    for packed in (False, True):
        network = kit.network(bench.task)
        batch = make_batch([(name, one) for one in bench.learn], {name: bench.task}, pad=0, packed=packed)
        assert batch.layout.is_packed is packed
        loss = Supervised({name: bench.task.loss})(batch, network)[name]
        loss.total.backward()
        found.append((loss.total.detach(), [p.grad for p in network.parameters() if p.grad is not None]))
        assert loss.total.dtype == torch.float32
        assert loss.weight == batch.targets[name].weight > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("packed", [False, True])
def test_one_at_a_time_answers_as_all_together(kit, name, packed):
    bench = kit.bench(name)
    network = kit.network(bench.task)
    together = kit.answers(network, bench.task, bench.ask, packed=packed)
    apart = [kit.answers(network, bench.task, [one])[0] for one in bench.ask]
    assert len(together) == len(bench.rows)
    for one, other in zip(together, apart, strict=True):
        assert_near(one, other)
        assert json.loads(json.dumps(one.to_json())) == one.to_json()


@pytest.mark.parametrize("name", NAMES)
def test_cut_into_two_the_sums_and_weights_add_up(kit, name):
    bench = kit.bench(name)
    network = kit.network(bench.task)

    def loss(encoded):
        batch = make_batch([(name, one) for one in encoded], {name: bench.task}, pad=0)
        return Supervised({name: bench.task.loss})(batch, network)[name]

    whole, first, second = loss(bench.learn), loss(bench.learn[:2]), loss(bench.learn[2:])
    torch.testing.assert_close(first.total + second.total, whole.total)
    assert first.weight + second.weight == whole.weight


@pytest.mark.parametrize("name", NAMES)
def test_what_divides_adds_up_to_the_whole_and_what_does_not_stays_whole(kit, name):
    bench = kit.bench(name)
    network = kit.network(bench.task)

    def loss(encoded):
        batch = make_batch([(name, one) for one in encoded], {name: bench.task}, pad=0)
        return Supervised({name: bench.task.loss})(batch, network)[name]

    for example in bench.learn:
        parts = cut_apart(bench.task, example)
        if not isinstance(bench.task, Divides):
            assert parts == (example,)
            continue
        assert [text.tokens for part in parts for text in part.texts] == [t.tokens for t in example.texts]
        assert {(part.more, part.where, part.gold) for part in parts} == {((), example.where, example.gold)}
        whole, apart = loss([example]), [loss([part]) for part in parts]
        torch.testing.assert_close(sum(one.total for one in apart), whole.total)
        assert sum(one.weight for one in apart) == whole.weight


@pytest.mark.parametrize("name", NAMES)
def test_a_row_given_twice_counts_twice_and_passes_once(kit, name):
    bench = kit.bench(name)
    network = kit.network(bench.task)
    once = make_batch([(name, one) for one in bench.learn], {name: bench.task}, pad=0)
    twice = make_batch([(name, one) for one in bench.learn * 2], {name: bench.task}, pad=0)
    assert twice.layout.num_rows == once.layout.num_rows
    single, double = (Supervised({name: bench.task.loss})(batch, network)[name] for batch in (once, twice))
    torch.testing.assert_close(double.total, 2 * single.total)
    assert double.weight == 2 * single.weight
    assert twice.targets[name].num_examples == 2 * len(bench.learn)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_comes_back_from_its_config_without_data(kit, name):
    bench = kit.bench(name)
    config = json.loads(json.dumps(bench.task.config()))
    again = type(bench.task).from_config(name, config)
    assert again == bench.task
    assert again.encode(bench.rows, bench.tokenizer, Purpose.LEARN) == bench.learn
    assert again.same_head(config) is None
    assert bench.task.same_head(config) is None


@pytest.mark.parametrize("name", NAMES)
def test_heads_come_from_their_seed_alone(kit, name):
    bench = kit.bench(name)
    info = kit.trunk().info
    torch.manual_seed(1)
    first = bench.task.head(info, dropout=0.0, seed=3).state_dict()
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    again = bench.task.head(info, dropout=0.0, seed=3).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    other = bench.task.head(info, dropout=0.0, seed=4).state_dict()
    assert not first or not torch.equal(first["out.weight"], other["out.weight"])


@pytest.mark.parametrize("name", NAMES)
def test_dropout_acts_while_training_only(kit, name):
    bench = kit.bench(name)
    trunk = kit.trunk()
    head = bench.task.head(trunk.info, dropout=0.5, seed=3)
    batch = make_batch([(name, one) for one in bench.learn], {name: bench.task}, pad=0)
    features, target = trunk(batch), batch.targets[name]
    torch.manual_seed(0)
    head.train()
    one, two = (kit.tensor(head(features, target)) for _ in range(2))
    head.eval()
    assert torch.equal(*(kit.tensor(head(features, target)) for _ in range(2)))
    assert torch.equal(one, two) is (name == "generation")  # its head is the trunk's own output embedding


@pytest.mark.parametrize("name", NAMES)
def test_an_unlabelled_row_is_dropped_to_learn_and_answered_when_asked(kit, name):
    bench = kit.bench(name)
    bare = [Row({k: v for k, v in row.values.items() if k not in _ANSWERS}, row.where) for row in bench.rows]
    dropped = bench.task.encode(bare, bench.tokenizer, Purpose.LEARN)
    assert all(isinstance(one, Dropped) and one.reason.startswith("no ") for one in dropped)
    assert [one.where for one in dropped] == [row.where for row in bare]
    asked = bench.task.encode(bare, bench.tokenizer, Purpose.ANSWER)
    assert [one.gold for one in asked] == [None] * len(bare)
    assert [one.tokens for one in asked] == [one.tokens for one in bench.ask]
    batch = make_batch([(name, one) for one in asked], {name: bench.task}, pad=0)
    assert batch.targets[name].weight == 0.0
    network = kit.network(bench.task)
    assert len(kit.answers(network, bench.task, asked)) == len(bare)


@pytest.mark.parametrize("name", NAMES)
def test_gold_is_judged_and_the_baseline_is_an_answer(kit, name):
    bench = kit.bench(name)
    golds = [one.gold for one in bench.ask]
    assert golds == [one.gold for one in bench.learn]
    baseline = bench.task.baseline(golds, len(golds))
    assert len(baseline) == len(golds)
    assert len({metric.name for metric in bench.task.metrics}) == len(bench.task.metrics)
    for metric in bench.task.metrics:
        value = metric.value(golds, baseline)
        assert value != metric.best or metric.name == "ece"  # shares of the training rows come true on them
        assert metric.finish(metric.statistics(golds, baseline).sum(0)) == pytest.approx(value)
    assert all(isinstance(key, str) and count >= 0 for key, count in bench.task.describe(golds).items())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_fitted_to_dev_rows_answers_from_then_on(kit, name):
    """A task that fits nothing lacks the method; else its answers are those of the task that it becomes."""
    bench = kit.bench(name)
    if not isinstance(bench.task, Calibrates):
        assert not hasattr(bench.task, "calibrated")
        return
    network = kit.network(bench.task)
    before = kit.answers(network, bench.task, bench.ask)
    golds = [one.gold for one in bench.ask]
    fitted, answers = bench.task.calibrated(golds, before)
    again = type(fitted).from_config(fitted.name, json.loads(json.dumps(fitted.config())))
    for one, other in zip(kit.answers(kit.network(again), again, bench.ask), answers, strict=True):
        assert_near(one, other)
    assert again.config().keys() == bench.task.config().keys()
    primary = bench.task.metrics[0]
    assert primary.value(golds, answers) >= primary.value(golds, before)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_gives_nothing_out(kit, name):
    bench = kit.bench(name)
    assert bench.task.encode([], bench.tokenizer, Purpose.LEARN) == []
    assert bench.task.baseline([], 2) == bench.task.baseline([], 1) * 2
    assert isinstance(bench.task.describe([]), dict)


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_question_is_a_row(kit, name):
    bench = kit.bench(name)
    row = bench.task.ask("a good film", SECOND.get(name))
    (encoded,) = bench.task.encode([row], bench.tokenizer, Purpose.ANSWER)
    assert isinstance(encoded, Encoded)
    assert encoded.gold is None
    assert isinstance(kit.answers(kit.network(bench.task), bench.task, [encoded])[0], Answer)


@pytest.mark.parametrize("name", NAMES)
def test_a_family_that_wants_no_output_embedding_does_without(kit, name):
    bench = kit.bench(name)
    trunk = kit.trunk()
    head = bench.task.head(trunk.info, dropout=0.0, seed=3)
    batch = make_batch([(name, one) for one in bench.learn], {name: bench.task}, pad=0)
    bare = dataclasses.replace(trunk(batch), project=None)
    if bench.task.wants_lm_head:
        with pytest.raises(ModelError, match="output embedding"):
            head(bare, batch.targets[name])
    else:
        assert torch.equal(head(bare, batch.targets[name]), head(trunk(batch), batch.targets[name]))


@pytest.mark.parametrize("name", NAMES)
def test_under_bf16_the_loss_is_fp32_and_close(kit, name):
    bench = kit.bench(name)
    network = kit.network(bench.task)
    batch = make_batch([(name, one) for one in bench.learn], {name: bench.task}, pad=0)
    exact = Supervised({name: bench.task.loss})(batch, network)[name].total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = Supervised({name: bench.task.loss})(batch, network)[name].total
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_a_stock_model_would_have_as_many_outputs_as_the_head(kit, name):
    bench = kit.bench(name)
    stock = bench.task.stock()
    network = kit.network(bench.task)
    batch = make_batch([(name, one) for one in bench.learn], {name: bench.task}, pad=0)
    if not stock.labels:
        assert stock.form in (StockForm.CAUSAL, StockForm.CHOICE)
        assert stock.problem_type is None
        return
    assert len(stock.labels) == network(batch)[name].shape[1]
    problems = {
        "multi_label": "multi_label_classification",
        "ordinal": "multi_label_classification",
        "regression": "regression",
        "tagging": None,
        "spans": None,
        "qa": None,
    }
    assert stock.problem_type == problems.get(name, "single_label_classification")
    form, pipeline = FORMS.get(name, (StockForm.SEQUENCE, "text-classification"))
    assert (stock.form, stock.pipeline) == (form, pipeline)


def test_tasks_of_all_kinds_share_one_pass(kit):
    benches = [kit.bench(name) for name in NAMES if name != "generation"]
    tasks = {bench.task.name: bench.task for bench in benches}
    items = [(bench.task.name, one) for bench in benches for one in bench.learn]
    network = kit.network(*tasks.values(), trunk=kit.trunk(pooling=Pooling.MEAN))
    together = Supervised({name: task.loss for name, task in tasks.items()})(
        make_batch(items, tasks, pad=0), network
    )
    assert network.trunk.num_passes == 1
    assert list(together) == list(tasks)
    for bench in benches:
        own = make_batch([(bench.task.name, one) for one in bench.learn], tasks, pad=0)
        alone = Supervised({bench.task.name: bench.task.loss})(own, network)[bench.task.name]
        torch.testing.assert_close(together[bench.task.name].total, alone.total)


def test_answers_of_several_tasks_come_from_one_pass(kit):
    benches = [kit.bench(name) for name in ("classification", "multi_label", "tagging")]
    tasks = {bench.task.name: bench.task for bench in benches}
    network = kit.network(*tasks.values())
    batch = make_batch([(b.task.name, one) for b in benches for one in b.ask], tasks, pad=0)
    inference = Inference(network.eval(), batch)
    for bench in benches:
        alone = [answer.label or answer.tags for answer in kit.answers(network, bench.task, bench.ask)]
        passes = network.trunk.num_passes
        found = bench.task.answers(inference, bench.ask)
        assert [answer.label or answer.tags for answer in found] == alone
        assert network.trunk.num_passes - passes == (1 if bench is benches[0] else 0)
