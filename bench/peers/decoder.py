"""LoRA instruction tuning of the small decoder by the Trainer with PEFT."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq

from bench.decoder import IGNORED, LINEAR, MODEL, dev_loss, load
from bench.order import Clock, Order, peak_mib, report
from bench.peers.trainer import RANK, Config, Plan, fastest_attention, padding, table, train
from bench.rates import DECODER_BATCH, DECODER_TOKENS, RATES


def main() -> None:
    order = Order.read()
    clock, config = Clock(), Config(order.contestant)
    tokenizer, rows, dev = load(order.files)
    plan = Plan(config, RATES["decoder"], DECODER_BATCH, order.epochs, order.seed, order.work)
    encoded = table(
        [
            {
                "input_ids": list(row.tokens),
                "attention_mask": [1] * len(row.tokens),
                "labels": [IGNORED] * row.start + list(row.tokens[row.start :]),
            }
            for row in rows[: order.rows]
        ]
    )
    model = with_lora(base(order, is_tuned=config is Config.TUNED))
    collate = DataCollatorForSeq2Seq(tokenizer, **padding(config, DECODER_TOKENS))
    train(model, plan, encoded, collate, clock=clock)
    peak = peak_mib()
    report(clock, [dev_loss(model, dev)], peak=peak)


def base(order: Order, *, is_tuned: bool) -> Any:
    """Return the decoder; it has no dropout, so the tuned user chooses attention, and on a GPU bf16 weights."""
    options = {"attn_implementation": fastest_attention()} if is_tuned else {}
    dtype = torch.bfloat16 if is_tuned and torch.cuda.is_available() else torch.float32
    return AutoModelForCausalLM.from_pretrained(order.files / MODEL, dtype=dtype, **options)


def lora() -> Any:
    """Return PEFT's settings: all seven linears of a layer."""
    from peft import LoraConfig, TaskType

    return LoraConfig(task_type=TaskType.CAUSAL_LM, r=RANK, lora_alpha=2 * RANK, target_modules=LINEAR)


def with_lora(model: Any) -> Any:
    """Return ``model`` under PEFT."""
    from peft import get_peft_model

    return get_peft_model(model, lora())


if __name__ == "__main__":
    main()
