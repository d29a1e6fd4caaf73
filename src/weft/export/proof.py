"""Proof that a stock model computes what a bundle computes: the same rows through both.

Legend: B probe rows, L padded length, T real tokens, C outputs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from weft.core.batch import Batch, Replies, Target
from weft.core.layout import Layout
from weft.core.network import Head, Network, Trunk
from weft.core.outputs import Projection
from weft.core.seeds import fold
from weft.core.stock import StockForm
from weft.errors import ExportError
from weft.export.bundle import Bundle
from weft.task.base import Task

_NUM_ROWS, _LONGEST = 16, 24


def prove(bundle: Bundle, name: str, model: Any, *, tolerance: float) -> float:
    """Return the largest difference of a logit between ``model`` and the bundle, in fp32 on the probe rows.

    Logits beyond 1 are compared by the share of the largest: rounding grows with them.

    Raises:
        ExportError: it is beyond ``tolerance``, or not a number.
    """
    batch, task = probe_batch(bundle), bundle.tasks[name]
    ours, theirs = weft_logits(bundle.network, task, batch), stock_logits(model, task, batch)
    difference = float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1.0))
    if not difference <= tolerance:
        raise ExportError(
            f"{name}: the exported model must compute what the bundle computes, but a logit differs by "
            f"{difference:.1e} of the largest (limit {tolerance:.0e}), so nothing was kept. {type(model).__name__} may pool in another "
            f"way than the head: train with the default pooling, use the bundle itself, or choose others with --task."
        )
    return difference


def form_of(network: Network, task: Task) -> StockForm:
    """Return the family of stock classes that ``task`` fits on this network's trunk."""
    form, info = task.stock().form, cast(Trunk, network.trunk).info
    return StockForm.REPLIES if form is StockForm.CAUSAL and info.is_encoder_decoder else form


def rounding(whole: Bundle, few: Bundle, name: str) -> float:
    """Return the largest difference of a logit of one task between a bundle on whole weights and in few bits.

    It is the share of the largest logit, where that is above 1.
    """
    batch, task = probe_batch(whole), whole.tasks[name]
    ours, theirs = (weft_logits(one.network, task, batch) for one in (whole, few))
    return float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1.0))


def probe_batch(bundle: Bundle) -> Batch:
    """Return rows of random tokens: as they are, and read as text by the tokenizer; always the same for a model.

    To an encoder-decoder each row has a reply: the start of the row after it.
    """
    random = np.random.default_rng(fold(0, "export"))
    vocabulary = cast(Any, bundle.network.trunk).model.get_input_embeddings().weight.shape[0]
    ordinary = np.setdiff1d(np.arange(vocabulary), [bundle.tokenizer.pad])
    longest = min(_LONGEST, bundle.tokenizer.max_tokens)
    lengths = random.integers(2, longest + 1, size=_NUM_ROWS)
    bare = [tuple(int(token) for token in random.choice(ordinary, size=length)) for length in lengths]
    texts = [bundle.tokenizer.decode(row) or "a" for row in bare]
    pieces = bundle.tokenizer.texts(texts, texts[::-1]) + bundle.tokenizer.texts(texts)
    rows = bare + [piece.tokens for piece in pieces]
    segments = [(0,) * len(row) for row in bare] + [piece.segments or () for piece in pieces]
    width = max(map(len, rows))
    has_segments = pieces[0].segments is not None
    start = bundle.tokenizer.reply_start
    replies = None
    if bundle.trunk.info.is_encoder_decoder and start is not None:
        written = [(start, *row[: 1 + place % 12]) for place, row in enumerate([*rows[1:], rows[0]])]
        layout = Layout.padded(list(map(len, written)))
        tokens_RL = _padded(written, layout.max_length, bundle.tokenizer.pad)
        replies = Replies(tokens_RL, layout, tuple(range(len(rows))))
    return Batch(
        tokens=_padded(rows, width, bundle.tokenizer.pad),
        segments=_padded(segments, width, 0) if has_segments else None,
        layout=Layout.padded([len(row) for row in rows]),
        targets={},
        ids=tuple(f"probe:{index}" for index in range(len(rows))),
        replies=replies,
    )


def weft_logits(network: Network, task: Task, batch: Batch) -> Tensor:
    """Return the outputs of the task's head for every row, (B, C), or every real token, (T, C), of rows or of replies."""
    batch = _asked(batch, task)
    layout = batch.layout if batch.replies is None else batch.replies.layout
    target = Target(
        rows_R=torch.arange(layout.num_rows),
        values={"positions": torch.arange(layout.num_tokens)},
        weight=0.0,
        num_examples=layout.num_rows,
    )
    device = network.device
    with torch.inference_mode():
        features = network.features(replace(batch, targets={task.name: target}).to(device))
        outputs = cast(Head, network.heads[task.name])(features, target.to(device))
        logits = outputs.logits_MV() if isinstance(outputs, Projection) else outputs
        return logits.float().cpu()


def stock_logits(model: Any, task: Task, batch: Batch) -> Tensor:
    """Return a stock model's logits for the same rows or tokens."""
    batch = _asked(batch, task)
    layout, width = batch.layout, batch.tokens.shape[1]
    inputs = {"input_ids": batch.tokens, "attention_mask": batch.layout.mask_BL().long()}
    if batch.segments is not None:
        inputs["token_type_ids"] = batch.segments
    form = task.stock().form
    if form is StockForm.CHOICE:  # each row as the only choice there is
        inputs = {name: values_BL[:, None] for name, values_BL in inputs.items()}
    if batch.replies is not None:
        layout, width = batch.replies.layout, batch.replies.tokens_RL.shape[1]
        inputs["decoder_input_ids"] = batch.replies.tokens_RL
    with torch.inference_mode():
        logits = _logits(model(**inputs), form).float()
    if form in (StockForm.SEQUENCE, StockForm.CHOICE):
        return logits
    assert layout.index_T is not None
    own = logits[:, -width:]  # PEFT returns what it puts in front of a row too
    return own.flatten(0, 1)[layout.index_T]


def _asked(batch: Batch, task: Task) -> Batch:
    """Return ``batch`` with its replies only where they are what the task is about."""
    return batch if task.stock().form is StockForm.CAUSAL else replace(batch, replies=None)


def _logits(found: Any, form: StockForm) -> Tensor:
    if form is StockForm.SPAN:
        return torch.stack([found.start_logits, found.end_logits], dim=-1)
    return found.logits


def _padded(rows: list[tuple[int, ...]], width: int, pad: int) -> Tensor:
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], dtype=torch.int64)
