"""The small decoder and its instruction data, made from a seed: files, rows as tokens, the loss they are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.judge import mean_score
from bench.order import Score
from bench.rates import DECODER_TOKENS
from bench.rawfiles import rows_of, write_jsonl

MEAN_TOKENS = 115.0
VOCABULARY = 32_000
STOP, PAD = "</s>", "<pad>"


@dataclass(frozen=True)
class Size:
    """A Llama: widths, layers and heads."""

    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int

    @property
    def linear(self) -> int:
        """Weights of the linear layers, without the output embedding."""
        attention = 2 * self.width**2 + 2 * self.width * self.width * self.kv_heads // self.heads
        return self.layers * (attention + 3 * self.width * self.inner)


SIZES = {"decoder": Size(512, 1376, 8, 8, 8), "billion": Size(2048, 8192, 16, 32, 8)}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IGNORED = -100
MODEL = "model"


@dataclass(frozen=True)
class Example:
    """One row: tokens, and where its answer starts."""

    tokens: tuple[int, ...]
    start: int


def make(data: Path, home: Path, rows: int, size: Size) -> dict[str, float]:
    """Write ``train.jsonl`` and ``dev.jsonl`` (prompt and answer) and the model; return the rows' mean length.

    Rows are kept up to the length at which their mean is about 115 tokens.
    """
    splits = {name: rows_of(data / "alpaca_en_subset" / f"{name}.jsonl") for name in ("train", "dev")}
    texts = {name: [_texts(row) for row in found if row["output"].strip()] for name, found in splits.items()}
    tokenizer = _tokenizer([" ".join(pair) for pair in texts["train"]])
    tokenizer.save_pretrained(home / MODEL)
    _random_model(tokenizer, size).save_pretrained(home / MODEL)
    longest = _longest([len(one.tokens) for one in examples(tokenizer, texts["train"])])
    kept = {
        name: [
            pair
            for pair, one in zip(pairs, examples(tokenizer, pairs), strict=True)
            if len(one.tokens) <= longest
        ]
        for name, pairs in texts.items()
    }
    kept = {"train": kept["train"][:rows], "dev": kept["dev"][: min(128, max(16, rows))]}
    for name, pairs in kept.items():
        write_jsonl(home / f"{name}.jsonl", [{"instruction": a, "output": b} for a, b in pairs])
    found = examples(tokenizer, kept["train"])
    tokens = sum(len(one.tokens) for one in found)
    answers = sum(len(one.tokens) - one.start for one in found)
    return {"tokens": tokens / len(found), "answer_share": answers / tokens}


def load(home: Path) -> tuple[Any, list[Example], list[Example]]:
    """Return tokenizer, training and dev examples."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(home / MODEL)
    pairs = [
        [(row["instruction"], row["output"]) for row in rows_of(home / f"{name}.jsonl")]
        for name in ("train", "dev")
    ]
    return tokenizer, examples(tokenizer, pairs[0]), examples(tokenizer, pairs[1])


def examples(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[Example]:
    """Return prompt, answer and stop token of each pair as tokens, cut to what the model is given."""
    if not pairs:
        return []
    prompts, answers = (
        tokenizer(list(side), add_special_tokens=False)["input_ids"] for side in zip(*pairs, strict=True)
    )
    stop = tokenizer.eos_token_id
    return [
        Example((*prompt, *answer, stop)[:DECODER_TOKENS], len(prompt))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def dev_loss(model: Any, rows: Sequence[Example]) -> Score:
    """Return the mean loss over answer tokens, by stock transformers in fp32, with its interval over rows."""
    model = model.float().eval()
    totals: list[float] = []
    weights: list[float] = []
    with torch.inference_mode():
        for row in rows:
            tokens_L = torch.tensor(row.tokens, device=next((p.device for p in model.parameters()), None))
            logits_LV = model(input_ids=tokens_L[None]).logits[0].float()
            loss = torch.nn.functional.cross_entropy(
                logits_LV[row.start - 1 : -1], tokens_L[row.start :], reduction="sum"
            )
            totals.append(float(loss))
            weights.append(len(row.tokens) - row.start)
    return mean_score("answers", "dev loss", totals, weights)


def _texts(row: dict[str, str]) -> tuple[str, str]:
    """Return the prompt in the words of the Alpaca project's template, shortened, and the answer."""
    given = f"### Input:\n{row['input']}\n\n" if row["input"] else ""
    return f"### Instruction:\n{row['instruction']}\n\n{given}### Response:\n", row["output"].strip()


def _tokenizer(texts: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    inner.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, STOP],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=STOP, pad_token=PAD, model_max_length=1024
    )


def _random_model(tokenizer: Any, size: Size) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=size.width,
            intermediate_size=size.inner,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.kv_heads,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _longest(lengths: Sequence[int]) -> int:
    """Return the length up to which rows are kept, so that their mean comes nearest to what is wanted."""
    ordered = sorted(lengths)
    means = [sum(ordered[: at + 1]) / (at + 1) for at in range(len(ordered))]
    nearest = min(range(len(means)), key=lambda at: abs(means[at] - MEAN_TOKENS))
    return min(ordered[nearest], DECODER_TOKENS)
