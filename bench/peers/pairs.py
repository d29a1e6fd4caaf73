"""Similarity of sentence pairs by sentence-transformers: a bi-encoder, or its cross-encoder."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from sentence_transformers import CrossEncoder, SentenceTransformer

from bench.judge import pearson
from bench.order import Clock, Order, peak_mib, report
from bench.peers.sentences import minilm
from bench.peers.trainer import Laps
from bench.rates import BATCH, RATES
from bench.rawfiles import rows_of

HIGHEST = 5.0


def main() -> None:
    order = Order.read()
    clock = Clock()
    rows, dev = rows_of(order.files / "train.jsonl", order.rows), rows_of(order.files / "dev.jsonl")
    table = Dataset.from_list(
        [{"text1": r["text1"], "text2": r["text2"], "label": r["score"] / HIGHEST} for r in rows]
    )
    pairs = [(row["text1"], row["text2"]) for row in dev]
    train = bi_encoder if order.contestant == "sentence-transformers" else cross_encoder
    said = train(order, table, Laps(clock, ["epoch 1"], len(rows)), pairs)
    report(clock, [pearson("stsb", [row["score"] for row in dev], said)], peak=peak_mib())


def bi_encoder(order: Order, table: Any, laps: Laps, pairs: list[tuple[str, str]]) -> Any:
    """Return cosines of the dev pairs after training on cosines."""
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

    model = SentenceTransformer(minilm(order), device="cpu")
    args = SentenceTransformerTrainingArguments(**settings(order))
    loss = CosineSimilarityLoss(model)
    SentenceTransformerTrainer(
        model=model, args=args, train_dataset=table, loss=loss, callbacks=[laps]
    ).train()
    first, second = (
        model.encode([pair[side] for pair in pairs], normalize_embeddings=True) for side in (0, 1)
    )
    return (first * second).sum(1)


def cross_encoder(order: Order, table: Any, laps: Laps, pairs: list[tuple[str, str]]) -> Any:
    """Return what a cross-encoder with one output says of the dev pairs."""
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    model = CrossEncoder(minilm(order), num_labels=1, device="cpu")
    args = CrossEncoderTrainingArguments(**settings(order))
    CrossEncoderTrainer(
        model=model, args=args, train_dataset=table, loss=BinaryCrossEntropyLoss(model), callbacks=[laps]
    ).train()
    return model.predict(pairs)


def settings(order: Order) -> dict[str, Any]:
    """Return the trainer's arguments; what is not named is its default."""
    return {
        "output_dir": str(order.work),
        "per_device_train_batch_size": BATCH,
        "learning_rate": RATES["pairs"],
        "num_train_epochs": order.epochs,
        "warmup_steps": 0.06,
        "use_cpu": True,
        "seed": order.seed,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


if __name__ == "__main__":
    main()
