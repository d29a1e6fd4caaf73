"""A small encoder-decoder from scratch, English to German, for so many minutes: BLEU of Weft and of the Seq2SeqTrainer on rows not seen.

Both get the same config, tokenizer, rows, batch, rate and dropout, and the same seconds of training loop; what is judged are the
last weights, greedily, by the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import kept
from bench.machine import describe, say
from bench.options import parser
from bench.order import Figures, Order
from bench.race import Contestant, ContestantError, run
from bench.rawfiles import rows_of, write_jsonl

VOCABULARY, WIDTH, LAYERS, HEADS, MAX_TOKENS = 8000, 256, 3, 4, 64
RATE, BATCH, DROPOUT, NEW_TOKENS = 5e-4, 64, 0.1, 60
DEV, TEST = 200, 1014


def main() -> None:
    asked = parser("bench.translation", __doc__)
    asked.add_argument("--contestants", nargs="+", choices=("weft", "trainer"), default=["weft", "trainer"])
    asked.add_argument("--minutes", type=int, default=30)
    given = asked.parse_args()
    say(f"# Translation from scratch\n\n- {describe(given.threads)}")
    files = given.work.resolve() / "translation"
    if not (files / "model" / "tokenizer.json").is_file():
        prepare(given.data / "multi30k_en_de", files)
    say(f"- {about(files)}; {given.minutes} minutes each, batch {BATCH}, rate {RATE:g}, dropout {DROPOUT}\n")
    lines = ["| | BLEU (n) | steps | pairs/s | peak MiB |", "|---|---|--:|--:|--:|"]
    for who in given.contestants:
        room = "ours" if who == "weft" else "peers"
        order = Order("translation", who, files, given.work, given.minutes, 1, 0, given.threads)
        try:
            found = run(Contestant(f"bench.{room}.translation", who), order)
        except ContestantError as error:
            say(f"  {who}: FAILED: {str(error)[-800:]}")
            continue
        kept.add(given.work / "translation.jsonl", found, who=who, minutes=given.minutes)
        lines.append(line(who, found))
        say(lines[-1])
    say("\n" + "\n".join(lines))


def line(who: str, found: Figures) -> str:
    """Return one line of the table."""
    score, lap = found.scores[0], found.laps[0]
    cells = [
        who,
        f"{score.value:.1f} [{score.low:.1f}, {score.high:.1f}] ({score.n})",
        f"{found.facts['steps']:.0f}",
        f"{lap.examples / lap.seconds:.0f}",
        f"{found.peak_mib:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def prepare(data: Path, home: Path) -> None:
    """Write rows, and a folder with a config and a tokenizer learnt from the training rows, without weights."""
    home.mkdir(parents=True, exist_ok=True)
    rows = rows_of(data / "train.jsonl")
    write_jsonl(home / "train.jsonl", rows[:-DEV])
    write_jsonl(home / "dev.jsonl", rows[-DEV:])
    write_jsonl(home / "test.jsonl", rows_of(data / "dev.jsonl", TEST))
    write_model([row[side] for row in rows for side in ("source", "target")], home / "model")


def write_model(texts: Sequence[str], home: Path) -> None:
    """Write the config of a small BART and a byte-pair tokenizer for it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import BartConfig, PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words: Any = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_TOKENS,
    )
    tokenizer.save_pretrained(home)
    BartConfig(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        max_position_embeddings=2 * MAX_TOKENS,
        dropout=DROPOUT,
        attention_dropout=0.0,
        activation_dropout=0.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    ).save_pretrained(home)


def about(files: Path) -> str:
    """Return what is trained on what."""
    rows = len((files / "train.jsonl").read_text(encoding="utf-8").splitlines())
    return (
        f"BART of {LAYERS} + {LAYERS} layers, width {WIDTH}, vocabulary {VOCABULARY}; multi30k, {rows} pairs"
    )


if __name__ == "__main__":
    main()
