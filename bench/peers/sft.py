"""LoRA instruction tuning of the small decoder by TRL's SFTTrainer.

TRL warns that padding-free batches need flash attention. With transformers 5 they do not: masks are made from the
restarting positions, and logits equal those of rows passed alone (checked, 1.5e-6), so that is a way to tune it.
"""

from __future__ import annotations

from datasets import Dataset
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from bench.decoder import MODEL, dev_loss, load
from bench.order import Clock, Order, peak_mib, report
from bench.peers.decoder import base, lora
from bench.peers.trainer import Config, Laps, Plan, settings
from bench.rates import DECODER_BATCH, DECODER_TOKENS, RATES
from bench.rawfiles import rows_of


def main() -> None:
    order = Order.read()
    clock = Clock()
    config = Config.TUNED if order.contestant == "trl grouped" else Config.COMMON
    is_free = order.contestant in ("trl padding-free", "trl liger")
    rows = rows_of(order.files / "train.jsonl", order.rows)
    tokenizer = AutoTokenizer.from_pretrained(order.files / MODEL)
    plan = Plan(config, RATES["decoder"], DECODER_BATCH, order.epochs, order.seed, order.work)
    trainer = SFTTrainer(
        model=base(order, is_tuned=order.contestant != "trl"),
        args=SFTConfig(
            **settings(plan),
            padding_free=is_free,
            use_liger_kernel=order.contestant == "trl liger",
            max_length=None
            if is_free
            else DECODER_TOKENS,  # rows are short enough; padding-free refuses to cut
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": row["instruction"], "completion": row["output"]} for row in rows]
        ),
        processing_class=tokenizer,
        peft_config=lora(),
        callbacks=[Laps(clock, plan.laps, len(rows))],
    )
    trainer.train()
    peak = peak_mib()
    report(clock, [dev_loss(trainer.model, load(order.files)[2])], peak=peak)


if __name__ == "__main__":
    main()
