"""The jobs of the benchmark: who does each, with which settings, and which ratio is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.race import Contestant
from bench.table import Wanted

_TUTORIAL = "padded to max_length, fp32, everything else at its default"
_COMMON = "dynamic padding, bf16=True, everything else at its default (dropout 0.1, sdpa, fused AdamW)"
_TUNED = 'bf16=True, train_sampling_strategy="group_by_length", dropout 0, eager attention, fused AdamW'
_OURS = "a recipe that names model, data, strategy, rate, batch and length, and nothing else"


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        title: for the reader.
        contestants: by name; ``weft`` is the one that ratios are taken against.
        rows: training or prediction rows (for each task of ``six``, for each class of a few-shot job).
        epochs: passes.
        wanted: lines of the summary.
        smoke: rows that show that everybody runs.
        note: what a reader must know to read the table.
        inner: two laps of Weft whose quotient is of interest, and the most it should be.
        most_rounds: for what is too slow to be repeated.
        needs_gpu: whether it is left out on a machine without one.
        memory: the most that Weft's peak memory should be of the common peer's, 0 where nothing is wanted.
    """

    title: str
    contestants: Mapping[str, Contestant]
    rows: int
    epochs: int = 1
    wanted: tuple[Wanted, ...] = ()
    smoke: int = 64
    note: str = ""
    inner: tuple[str, str, float] | None = None
    most_rounds: int = 1000
    memory: float = 0.0
    needs_gpu: bool = False


def _trainers(module: str, *names: str, tutorial_share: float = 1.0) -> dict[str, Contestant]:
    words = {"tutorial": _TUTORIAL, "common": _COMMON, "tuned": _TUNED}
    return {
        name: Contestant(module, f"Trainer: {words[name]}", tutorial_share if name == "tutorial" else 1.0)
        for name in names
    }


def _sentences(title: str, *, least: Mapping[str, float], epochs: int) -> Job:
    is_short = epochs == 1
    peers = ("tutorial", "common", "tuned") if is_short else ("common", "tuned")
    laps = [("epoch 1", least if is_short else {})] + ([] if is_short else [("epoch 2", least)])
    return Job(
        title=f"{title}, MiniLM, whole SST-2 sentences, batch 32, {epochs} epoch{'s' * (epochs > 1)}",
        contestants={
            **_trainers("bench.peers.sentences", *peers, tutorial_share=960 / 6920),
            "weft": Contestant("bench.ours.sentences", _OURS),
        },
        rows=6920,
        epochs=epochs,
        wanted=tuple(Wanted(f"{title}, {lap}", lap, wished) for lap, wished in laps),
        note="The tutorial is given 960 rows; its seconds are scaled to the epoch by examples." * is_short,
    )


JOBS: dict[str, Job] = {
    "full": _sentences("full", least={"tutorial": 12, "common": 3, "tuned": 1.3}, epochs=1),
    "lora": _sentences("LoRA r=8", least={"tutorial": 15, "common": 3.5, "tuned": 1.6}, epochs=1),
    "top2": _sentences("top 2 layers and head", least={"common": 5, "tuned": 2.5}, epochs=2),
    "head": _sentences("head only", least={"common": 150, "tuned": 80}, epochs=2),
    "six": Job(
        title="six tasks, everything below the top third frozen, 3 epochs each, to the end",
        contestants={
            **_trainers("bench.peers.six", "common", "tuned"),
            "weft": Contestant(
                "bench.ours.six", "one recipe: layers below the top two train: none, top 2 full"
            ),
        },
        rows=2000,
        epochs=3,
        wanted=(
            Wanted("six tasks, training", "training", {"common": 6, "tuned": 3}),
            Wanted("six tasks, whole process", "whole", {}),
        ),
        smoke=48,
        note="Peers: six Trainer runs in one process, judged once at their end. Weft: one run of six tasks, judged after "
        "every epoch, its bundle and reports written. training = the training loops alone; whole = all of the process.",
    ),
    "candidates": Job(
        title="eight candidate strategies of one job, 2 epochs each",
        contestants={
            **_trainers("bench.peers.candidates", "common", "tuned"),
            "weft": Contestant("bench.ours.candidates", "eight recipes one after another in one process"),
        },
        rows=2000,
        epochs=2,
        wanted=(
            Wanted("eight candidates, training", "training", {"common": 4, "tuned": 2.5}),
            Wanted("eight candidates, whole process", "whole", {}),
        ),
        smoke=48,
        note="Scores are those after the last epoch. Weft also judges after every epoch and writes eight bundles; that is "
        "in whole, not in training.",
    ),
    "decoder": Job(
        title="decoder 58M (random Llama, vocabulary 32k), LoRA r=8 on all linears, answers only, 8 sequences a step",
        contestants={
            **_trainers("bench.peers.decoder", "tutorial", "common", "tuned", tutorial_share=48 / 480),
            "trl": Contestant(
                "bench.peers.sft", "TRL SFTTrainer: prompt/completion rows, bf16=True, defaults"
            ),
            "trl grouped": Contestant(
                "bench.peers.sft", "SFTTrainer: bf16=True, group_by_length, eager attention"
            ),
            "trl padding-free": Contestant(
                "bench.peers.sft", "SFTTrainer: bf16=True, padding_free, eager attention"
            ),
            "weft": Contestant("bench.ours.decoder", _OURS),
        },
        rows=480,
        wanted=(Wanted("decoder LoRA SFT", "epoch 1", {"tutorial": 3, "common": 2, "tuned": 1.5}),),
        smoke=16,
        note="The tutorial is given a tenth of the rows and pads to 256 tokens. Dev loss: answers only, computed for "
        "everybody by stock transformers in fp32. TRL's padding-free batches are exact on a CPU too: transformers 5 masks by restarting positions.",
        memory=0.5,
    ),
    "billion": Job(
        title="decoder 1.1B (random Llama, vocabulary 32k), LoRA r=8 on all linears, answers only, 8 sequences a step",
        contestants={
            **_trainers("bench.peers.decoder", "common", "tuned"),
            "trl": Contestant("bench.peers.sft", "TRL SFTTrainer: bf16=True, defaults"),
            "trl padding-free": Contestant(
                "bench.peers.sft", "SFTTrainer: bf16 weights, padding_free, flash attention if installed"
            ),
            "trl liger": Contestant(
                "bench.peers.sft", "SFTTrainer: the same with use_liger_kernel (needs liger-kernel)"
            ),
            "weft": Contestant("bench.ours.decoder", _OURS),
        },
        rows=2000,
        wanted=(Wanted("1B decoder LoRA SFT", "epoch 1", {"common": 2, "tuned": 1.5}),),
        smoke=16,
        note="On a GPU only. peak MiB is the GPU's.",
        memory=0.5,
        needs_gpu=True,
    ),
    "adapters": Job(
        title="16 LoRA adapters (r=8, query and value) mixed in batches of 64 rows, prediction, bf16",
        contestants={
            "common": Contestant("bench.peers.adapters", "peft adapter_names in one batch, sdpa, padded"),
            "tuned": Contestant(
                "bench.peers.adapters", "peft adapter_names, eager, two halves sorted by length"
            ),
            "sequential": Contestant("bench.peers.adapters", "peft set_adapter, one pass an adapter, eager"),
            "weft": Contestant("bench.ours.adapters", "rows routed to adapters, one packed pass"),
        },
        rows=640,
        wanted=(Wanted("16 adapters in one batch", "batches", {"common": 2, "tuned": 2}),),
        smoke=64,
        note="Tokenised input. Score: labels equal to those of the fp32 model with one adapter at a time.",
    ),
    "heads": Job(
        title="16 heads against one head, prediction, bf16, in batches of 32 and one text at a time",
        contestants={
            "common": Contestant("bench.peers.heads", "16 models one after another, sdpa, padded"),
            "tuned": Contestant("bench.peers.heads", "16 models one after another, eager, sorted by length"),
            "weft": Contestant("bench.ours.heads", "one trunk pass, 16 heads"),
        },
        rows=640,
        wanted=(
            Wanted("16 heads, batches of 32", "16 heads", {}),
            Wanted("16 heads, one text", "16 heads, one text", {}),
        ),
        smoke=64,
        note="Tokenised input; random heads, so there is no score.",
        inner=("16 heads, one text", "1 head, one text", 1.1),
    ),
    "predict": Job(
        title="prediction, MiniLM classification, bf16, from text to label and probabilities",
        contestants={
            "common": Contestant(
                "bench.peers.predict", "bf16 model, fast tokenizer, sdpa, batches as they come"
            ),
            "tuned": Contestant(
                "bench.peers.predict", "bf16 model, fast tokenizer, eager, all rows sorted by length first"
            ),
            "weft": Contestant(
                "bench.ours.predict", "an opened bundle, 32 texts (or one) a call, as they come"
            ),
        },
        rows=1024,
        wanted=(
            Wanted("prediction, batch 32", "batch 32", {"common": 1.3, "tuned": 1.2}),
            Wanted("prediction, one at a time", "one at a time", {"common": 1.3, "tuned": 1.2}),
        ),
        smoke=64,
        note="The tuned peer may sort all rows before it cuts batches; Weft gets 32 at a time in the order of the file.",
    ),
    "pairs": Job(
        title="similarity of sentence pairs (STS-B), MiniLM, one epoch, batch 32, rate 5e-5",
        contestants={
            "sentence-transformers": Contestant(
                "bench.peers.pairs", "bi-encoder, CosineSimilarityLoss, trainer defaults (fp32)"
            ),
            "cross-encoder": Contestant(
                "bench.peers.pairs", "sentence-transformers CrossEncoder, its trainer's defaults (fp32)"
            ),
            "weft": Contestant("bench.ours.pairs", f"cross-encoder; {_OURS}"),
        },
        rows=5000,
        wanted=(Wanted("STS-B pairs", "epoch 1", {}),),
        note="Not the same model: a bi-encoder embeds each text alone and compares (and starts from what MiniLM was "
        "made for); Weft's regression and the CrossEncoder read both texts together with a new head. Weft has no "
        "contrastive objective yet.",
    ),
    "fewshot8": Job(
        title="few-shot sentiment, 8 sentences a class, end to end",
        contestants={
            "setfit": Contestant(
                "bench.peers.fewshot", "SetFit, its defaults (contrastive pairs, then a logistic head)"
            ),
            "weft": Contestant("bench.ours.fewshot", "classification at Weft's defaults (full, 3 epochs)"),
        },
        rows=8,
        wanted=(Wanted("few-shot, 8 a class", "training", {}),),
        smoke=2,
        note="No ratio is wanted: SetFit's contrastive pairs are another objective, which Weft does not have yet.",
    ),
    "fewshot64": Job(
        title="few-shot sentiment, 64 sentences a class, end to end",
        contestants={
            "setfit": Contestant("bench.peers.fewshot", "SetFit, its defaults (all pairs, oversampled)"),
            "weft": Contestant("bench.ours.fewshot", "classification at Weft's defaults (full, 3 epochs)"),
        },
        rows=64,
        wanted=(Wanted("few-shot, 64 a class", "training", {}),),
        smoke=3,
        note="One round: SetFit trains on all pairs of its 128 sentences.",
        most_rounds=1,
    ),
}
GROUPS = {"embeddings": ("pairs", "fewshot8", "fewshot64")}
PACKAGES = (
    "weft",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "trl",
    "sentence-transformers",
    "setfit",
    "datasets",
    "tokenizers",
)
