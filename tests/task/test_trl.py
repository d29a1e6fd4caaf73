"""What is learnt of conversations and completions is what TRL's SFTTrainer learns: the same tokens, masks and losses."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from weft.core.example import Purpose
from weft.model.folder import locate
from weft.model.trunk import load_trunk
from weft.task.batching import make_batch
from weft.task.templates import FORMATS

pytestmark = pytest.mark.slow
ZEPHYR = FORMATS["zephyr"].template.replace("+ end", "+ eos_token")
TALKS = [
    [
        {"role": "system", "content": "Tell stories."},
        {"role": "user", "content": "Who was there?"},
        {"role": "assistant", "content": "Once upon a time there was Tim."},
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": "He went to the park with his mum."},
    ],
    [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "hi, Lily"}],
    [{"role": "user", "content": "Say red"}, {"role": "assistant", "content": "red"}] * 3,
]
PAIRS = [
    {"prompt": "Who was there?\n", "completion": "Tim was there. He was happy."},
    {"prompt": "Count:\n", "completion": "one two three"},
    {"prompt": "说:\n", "completion": "红"},
]


def _trainer(
    folder: Path, out: Path, rows: list[dict[str, Any]], *, template: str | None, **options: Any
) -> Any:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.chat_template = template
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    config = trl.SFTConfig(
        output_dir=str(out), report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, **options
    )
    data = datasets.Dataset.from_list(rows)
    return trl.SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)


def _theirs(trainer: Any) -> tuple[list[tuple[list[int], list[int]]], float]:
    """Return tokens and labels of each row, and the summed loss of one batch of all."""
    rows = [(list(row["input_ids"]), list(row["labels"])) for row in trainer.train_dataset]
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    batch.pop("labels_count", None)
    with torch.no_grad():
        loss = trainer.model(**batch).loss
    labels = batch["labels"][:, 1:]
    return rows, float(loss * (labels != -100).sum())


def _ours(kit, folder, rows, **options) -> tuple[list[tuple[list[int], list[int]]], float]:
    tokenizer = kit.chat(options.pop("own", None), max_tokens=512)
    task = kit.fit("generation", rows, **options)
    encoded = task.encode(kit.rows(rows), tokenizer, Purpose.LEARN)
    found = []
    for one in encoded:
        labels = [-100] * len(one.tokens)
        for start, end, _ in one.target.texts[0]:
            labels[start:end] = one.tokens[start:end]
        found.append((list(one.tokens), labels))
    where = locate(str(folder), None, root=folder)
    trunk = load_trunk(where, wants_lm_head=True, dropout=0.0, device=torch.device("cpu"))
    network = kit.network(task, trunk=trunk)
    losses = []
    for packed in (False, True):
        batch = make_batch([("t", one) for one in encoded], {"t": task}, pad=0, packed=packed)
        with torch.no_grad():
            loss = task.loss(network(batch)["t"], batch.targets["t"])
        losses.append(loss.total.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    return found, losses[1]


def _same(ours, theirs) -> None:
    """Hold tokens and labels against each other; TRL keeps what its template writes behind the last answer."""
    for (tokens, labels), (all_tokens, all_labels) in zip(ours, theirs, strict=True):
        assert all_tokens[: len(tokens)] == tokens
        assert all_labels[: len(labels)] == labels
        assert set(all_labels[len(labels) :]) <= {-100}


@pytest.fixture(autouse=True)
def _theirs_may_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("template", [None, "zephyr"])
def test_assistant_only_loss(kit, stories260k, tmp_path, template):
    rows = [{"messages": talk} for talk in TALKS]
    trainer = _trainer(stories260k, tmp_path, rows, template=ZEPHYR, assistant_only_loss=True, max_length=512)
    theirs, their_loss = _theirs(trainer)
    own = ZEPHYR if template is None else None
    ours, our_loss = _ours(kit, stories260k, rows, own=own, template=template)
    if template is not None:  # formats of a name open as the tokenizer does, the template alone does not
        ours = [(tokens[1:], labels[1:]) for tokens, labels in ours]
    _same(ours, theirs)
    if template is None:
        assert our_loss == pytest.approx(their_loss, rel=1e-5)


def test_completion_only_loss(kit, stories260k, tmp_path):
    theirs, their_loss = _theirs(_trainer(stories260k, tmp_path, PAIRS, template=None, max_length=512))
    ours, our_loss = _ours(kit, stories260k, PAIRS, template="{instruction}")
    _same(ours, theirs)
    assert our_loss == pytest.approx(their_loss, rel=1e-5)


def test_all_tokens(kit, stories260k, tmp_path):
    rows = [{"messages": talk} for talk in TALKS]
    theirs, _ = _theirs(_trainer(stories260k, tmp_path, rows, template=ZEPHYR, max_length=512))
    ours, _ = _ours(kit, stories260k, rows, own=ZEPHYR, learn="all")
    for (tokens, labels), (all_tokens, all_labels) in zip(ours, theirs, strict=True):
        assert all_labels[: len(labels)] == labels == tokens == all_tokens[: len(tokens)]
        assert len(all_tokens) - len(tokens) <= 2  # the line break behind the last end token


def test_packed_rows(kit, stories260k, tmp_path):
    """TRL lays conversations end to end and lets positions start anew; the loss is that of the rows alone."""
    rows = [{"messages": talk} for talk in TALKS]
    options = {"assistant_only_loss": True, "max_length": 600, "packing": True}
    trainer = _trainer(stories260k, tmp_path, rows, template=ZEPHYR, **options)
    assert len(trainer.train_dataset) == 1
    _, their_loss = _theirs(trainer)
    _, our_loss = _ours(kit, stories260k, rows, own=ZEPHYR)
    assert our_loss == pytest.approx(their_loss, rel=1e-5)
