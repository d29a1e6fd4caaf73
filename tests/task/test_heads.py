"""Heads: stock models carry them, units fold away, and only addressed states are touched."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from weft.core.batch import Batch, Target
from weft.core.features import Features, Pooling
from weft.core.layout import Layout
from weft.errors import ModelError
from weft.model.folder import locate
from weft.model.trunk import load_trunk
from weft.task.batching import make_batch
from weft.task.heads import (
    SequenceHead,
    TokenHead,
    Units,
    VocabularyHead,
    choose_pooling,
    new_linear,
    states_at,
)


def _target(rows: list[int], **values: list[int]) -> Target:
    tensors = {name: torch.tensor(value) for name, value in values.items()}
    return Target(torch.tensor(rows), tensors, weight=1.0, num_examples=len(rows))


def _states(*lengths: int) -> tuple[Features, Features]:
    """Return the same states padded and packed; padding holds NaN, so that touching it shows."""
    padded, packed = Layout.padded(lengths), Layout.packed(lengths)
    flat = torch.arange(sum(lengths) * 3.0).view(-1, 3)
    grid = torch.full((len(lengths) * max(lengths), 3), torch.nan)
    grid[padded.index_T] = flat
    return Features(grid.view(len(lengths), -1, 3), padded), Features(flat, packed)


def _identity() -> nn.Linear:
    linear = nn.Linear(3, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(3))
        linear.bias.zero_()
    return linear


@pytest.mark.parametrize("pooling", [Pooling.CLS, Pooling.LAST])
def test_a_row_may_be_asked_for_twice_and_in_any_order(pooling):
    head = SequenceHead(_identity(), pooling=pooling, dropout=0.0)
    rows = {Pooling.CLS: [5, 0, 5], Pooling.LAST: [5, 1, 5]}[pooling]
    for features in _states(2, 3, 1):
        out = head(features, _target([2, 0, 2]))
        assert out.tolist() == [[3.0 * row, 3.0 * row + 1, 3.0 * row + 2] for row in rows]


def test_token_states_are_taken_at_flat_positions():
    for features in _states(2, 3, 1):
        target = _target([0, 1], positions=[5, 1, 2])
        assert states_at(features, target)[:, 0].tolist() == [15.0, 3.0, 6.0]
        assert TokenHead(_identity(), dropout=0.0)(features, target)[:, 0].tolist() == [15.0, 3.0, 6.0]


def test_no_positions_give_no_logits():
    for features in _states(2, 1):
        target = Target(torch.tensor([0]), {"positions": torch.zeros(0, dtype=torch.int64)}, 0.0, 1)
        assert TokenHead(_identity(), dropout=0.0)(features, target).shape == (0, 3)


def test_only_supervised_states_are_to_be_projected_and_by_nobody_yet():
    output = nn.Linear(3, 9)
    calls = []
    output.register_forward_hook(lambda _module, inputs, _logits: calls.append(inputs[0].shape))
    for features in _states(4, 2):
        features = dataclasses.replace(features, project=output)
        target = _target([0], positions=[1, 2])
        outputs = VocabularyHead()(features, target)
        assert calls == []
        assert torch.equal(outputs.states_MD, states_at(features, target))
        assert torch.equal(outputs.logits_MV(), output(states_at(features, target)))
        assert calls == [(2, 3), (2, 3)]
        calls.clear()


def test_a_trunk_without_output_embedding_cannot_generate():
    features, _ = _states(2)
    with pytest.raises(ModelError, match="output embedding"):
        VocabularyHead()(features, _target([0], positions=[0]))


def test_units_fold_into_a_plain_layer():
    torch.manual_seed(0)
    head = SequenceHead(
        nn.Linear(3, 1), pooling=Pooling.MEAN, dropout=0.0, units=Units(shift=50.0, scale=20.0)
    )
    for features in _states(2, 3):
        if features.layout.is_packed:
            weights = head.stock_weights()
            plain = features.mean_BD() @ weights["weight"].T + weights["bias"]
            torch.testing.assert_close(head(features, _target([0, 1])), plain)


def test_logits_have_no_units():
    head = SequenceHead(nn.Linear(3, 2), pooling=Pooling.MEAN, dropout=0.0)
    assert torch.equal(head.stock_weights()["weight"], head.out.weight)
    assert torch.equal(head.stock_weights()["bias"], head.out.bias)
    assert list(TokenHead(nn.Linear(3, 2), dropout=0.0).stock_weights()) == ["weight", "bias"]


def test_a_shift_without_a_bias_cannot_be_exported():
    head = SequenceHead(nn.Linear(3, 1, bias=False), pooling=Pooling.MEAN, dropout=0.0, units=Units(1.0, 2.0))
    with pytest.raises(ModelError, match="needs a bias"):
        head.stock_weights()


def test_new_layers_have_the_architectures_spread_and_no_bias(kit):
    info = dataclasses.replace(kit.trunk().info, width=400, init_range=0.05)
    linear = new_linear(info, 100, has_bias=True, seed=1)
    assert linear.weight.std().item() == pytest.approx(0.05, rel=0.02)
    assert linear.weight.mean().abs().item() < 1e-3
    assert linear.bias.abs().max() == 0
    assert new_linear(info, 100, has_bias=False, seed=1).bias is None
    assert linear.weight.requires_grad
    assert linear.weight.device.type == "cpu"


def test_pooling_is_the_architectures_unless_said(kit):
    info = kit.trunk(pooling=Pooling.LAST).info
    assert choose_pooling(info, None, task="t") is Pooling.LAST
    assert choose_pooling(info, Pooling.MEAN, task="t") is Pooling.MEAN
    with pytest.raises(ModelError, match=r"tasks\.t\.pooling.*Choices: cls, mean, last"):
        choose_pooling(dataclasses.replace(info, has_pooler=False), Pooling.POOLER, task="t")


def _trunk(path):
    device = torch.device("cpu")
    return load_trunk(locate(str(path), None, root=path), wants_lm_head=False, dropout=0.0, device=device)


def _stock(model_class, folder, trunk, num_labels):
    from weft.model.quiet import quiet

    with quiet():
        model = model_class.from_pretrained(folder, num_labels=num_labels, pad_token_id=0).eval()
    loaded = model.base_model.load_state_dict(trunk.model.state_dict(), strict=False)
    assert loaded.missing_keys == []
    assert all(
        key.startswith("pooler.") for key in loaded.unexpected_keys
    )  # stock token classifiers have none
    return model


@torch.inference_mode()
def _logits(model, batch: Batch):
    mask = batch.layout.mask_BL().long()
    return model(input_ids=batch.tokens, attention_mask=mask, token_type_ids=batch.segments).logits


@pytest.mark.parametrize("name", ["classification", "regression", "tagging"])
def test_stock_bert_carries_the_heads(kit, tiny_bert, name):
    from transformers import BertForSequenceClassification, BertForTokenClassification

    bench = kit.bench(name)
    options = {key: value for key, value in kit.samples[name].options.items() if key != "pooling"}
    task = kit.fit(name, kit.samples[name].rows, name=name, **options)
    trunk = _trunk(tiny_bert)
    network = kit.network(task, trunk=trunk).eval()
    outputs = len(task.labels) if name != "regression" else 1
    model_class = BertForTokenClassification if name == "tagging" else BertForSequenceClassification
    stock = _stock(model_class, tiny_bert, trunk, outputs)
    stock.classifier.load_state_dict(network.heads[name].stock_weights())
    batch = make_batch([(name, one) for one in bench.learn], {name: task}, pad=0)
    with torch.inference_mode():
        ours = network(batch)[name]
    theirs = _logits(stock, batch)
    if name == "tagging":
        theirs = theirs[batch.layout.mask_BL()][batch.targets[name].values["positions"]]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["classification", "regression"])
def test_stock_llama_carries_the_heads(kit, stories260k, name):
    from transformers import LlamaForSequenceClassification

    sample = kit.samples[name]
    task = kit.fit(name, sample.rows, name=name)
    trunk = _trunk(stories260k)
    assert (trunk.info.has_bias, trunk.info.pooling) == (False, Pooling.LAST)
    network = kit.network(task, trunk=trunk).eval()
    stock = _stock(LlamaForSequenceClassification, stories260k, trunk, 2 if name == "classification" else 1)
    stock.score.load_state_dict(network.heads[name].stock_weights())
    encoded = task.encode(kit.rows(sample.rows), kit.story, "learn")
    batch = make_batch([(name, one) for one in encoded], {name: task}, pad=0)
    with torch.inference_mode():
        ours, theirs = network(batch)[name], []
        for one in encoded:
            theirs.append(stock(input_ids=torch.tensor([one.tokens])).logits[0])
    torch.testing.assert_close(ours, torch.stack(theirs), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("has_bias", [True, False])
def test_several_heads_at_a_time_give_what_each_gives_alone(has_bias):
    torch.manual_seed(0)
    lengths = [2, 3, 1]
    features = Features(torch.randn(sum(lengths), 6), Layout.packed(lengths))
    units = [None, Units(2.0, 3.0), None]
    heads = [
        SequenceHead(nn.Linear(6, 2 + at, bias=has_bias), pooling=Pooling.CLS, dropout=0.5, units=unit).eval()
        for at, unit in enumerate(units)
    ]
    targets = [Target(torch.tensor(rows), {}, 1.0, len(rows)) for rows in ([0, 1, 2], [2, 0], [1])]
    assert len({head.kind for head in heads}) == 1
    together = SequenceHead.together(heads, features, targets)
    for head, target, found in zip(heads, targets, together, strict=True):
        torch.testing.assert_close(found, head(features, target))
    assert heads[0].train().kind is None, "dropout acts on each head by itself"
