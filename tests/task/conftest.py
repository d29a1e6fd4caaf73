"""A trunk that needs no attention, real tokenizers, and a few rows of every family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weft.core.batch import Batch
from weft.core.decoding import Decoding
from weft.core.example import Encoded, Purpose, Row
from weft.core.features import Features, Pooling
from weft.core.network import Heard, Inference, Network, TrunkInfo
from weft.core.outputs import Outputs, Projection
from weft.model.folder import locate
from weft.model.tokenizer import HFTokenizer, load_tokenizer
from weft.task.base import Task, Tokenizer
from weft.task.batching import make_batch
from weft.task.registry import FAMILIES

VOCABULARY, WIDTH = 512, 8


class ToyTrunk(nn.Module):
    """Each token on its own: embedding + MLP, with a pooler, an output embedding and greedy decoding."""

    def __init__(self, *, has_bias: bool = True, pooling: Pooling = Pooling.POOLER) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.info = TrunkInfo(
            width=WIDTH,
            vocabulary=VOCABULARY,
            pooling=pooling,
            has_pooler=True,
            has_bias=has_bias,
            is_causal=True,
            max_positions=64,
            init_range=0.02,
        )
        self.embedding = nn.Embedding(
            VOCABULARY, WIDTH, _weight=torch.randn(VOCABULARY, WIDTH, generator=generator)
        )
        self.segment = nn.Parameter(torch.randn(2, WIDTH, generator=generator))
        self.up = nn.Parameter(torch.randn(WIDTH, WIDTH, generator=generator))
        self.project = nn.Linear(WIDTH, VOCABULARY, bias=False, device="meta")
        self.project.weight = self.embedding.weight
        self.num_passes = 0

    def forward(self, batch: Batch, *, perturb: Tensor | None = None) -> Features:
        self.num_passes += 1
        hidden = self.embedding(batch.tokens)
        hidden = (
            hidden
            + self.segment[torch.zeros_like(batch.tokens) if batch.segments is None else batch.segments]
        )
        hidden = hidden if perturb is None else hidden + perturb
        hidden = hidden + torch.tanh(hidden @ self.up)
        return Features(
            hidden, batch.layout, pooler=lambda first_BD: torch.tanh(first_BD), project=self.project
        )

    def generate(
        self, prompts: Sequence[Sequence[int]], how: Decoding, *, heard: Heard | None = None
    ) -> list[list[int]]:
        """The likeliest token each time, whatever else ``how`` says."""
        found = []
        for prompt in prompts:
            tokens = list(prompt)
            while len(tokens) < len(prompt) + how.max_new_tokens:
                hidden = self.embedding.weight[tokens[-1]] + self.segment[0]
                token = int(self.project((hidden + torch.tanh(hidden @ self.up))[None]).argmax())
                if token in how.stop_tokens:
                    break
                tokens.append(token)
                if heard is not None:
                    heard(token)
            found.append(tokens[len(prompt) :])
        return found


@dataclass(frozen=True)
class Sample:
    """Options and rows of one family that its tests share."""

    rows: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""


def _question(question: str, context: str, *answers: str) -> dict[str, Any]:
    """Return a row of SQuAD; without answers the question has none."""
    starts = [context.index(answer) for answer in answers]
    return {
        "question": question,
        "context": context,
        "answers": {"text": list(answers), "answer_start": starts},
    }


SAMPLES = {
    "classification": Sample(
        [
            {"text": "a good film", "label": "pos"},
            {"text": "a bad film", "label": "neg"},
            {"text": "the book is great and happy", "label": "pos"},
            {"text": "sad and poor story", "label": "neg"},
            {"text": "这电影很好", "label": "pos"},
            {"text": "小说很坏", "label": "neg"},
            {"text": "new", "label": "pos"},
            {"text": "old city", "label": "neg"},
        ],
        {"pooling": "mean"},
    ),
    "multi_label": Sample(
        [
            {"text": "red cat", "label": ["red", "animal"]},
            {"text": "red book", "label": ["red"]},
            {"text": "dog runs", "label": ["animal"]},
            {"text": "story", "label": []},
            {"text": "a big red dog", "label": "animal|red"},
            {"text": "john sleeps", "label": []},
        ],
        {"multi_label": True, "pooling": "mean"},
        "classification",
    ),
    "pairs": Sample(
        [
            {"premise": "a cat sleeps", "hypothesis": "a cat runs", "label": 0},
            {"premise": "a cat sleeps", "hypothesis": "it sleeps", "label": 1},
            {"premise": "mary eats", "hypothesis": "mary likes it", "label": 2},
            {"premise": "smith works", "hypothesis": "smith sleeps", "label": 0},
            {"premise": "smith works", "hypothesis": "he works", "label": 1},
            {"premise": "the city is big", "hypothesis": "paris is big", "label": 2},
        ],
        {"pooling": "mean"},
        "classification",
    ),
    "regression": Sample(
        [
            {"text1": "a cat", "text2": "a dog", "score": 40.0},
            {"text1": "a cat", "text2": "a cat", "score": 95.0},
            {"text1": "the film", "text2": "paris", "score": 5.0},
            {"text1": "good film", "text2": "great movie", "score": 80},
            {"text1": "三 red", "text2": "one", "score": "20"},
            {"text1": "mary eats", "text2": "he sleeps", "score": 10.5},
        ],
        {"pooling": "mean"},
    ),
    "ordinal": Sample(
        [
            {"text": "a very bad film", "stars": 1},
            {"text": "not a good film", "stars": 2},
            {"text": "a film", "stars": "3"},
            {"text": "a good film", "stars": 4.0},
            {"text": "很好的电影", "stars": 5},
            {"text": "very very good", "stars": 5},
        ],
        {"pooling": "mean"},
    ),
    "choice": Sample(
        [
            {
                "premise": "the cat is sad",
                "question": "cause",
                "choices": ["it eats", "it is old"],
                "label": 1,
            },
            {
                "premise": "a dog runs",
                "question": "effect",
                "choices": ["it is happy", "it sleeps"],
                "label": 0,
            },
            {
                "premise": "一本书",
                "question": "cause",
                "choices": ["我在上海", "小说很好", "电影很坏"],
                "label": 2,
            },
            {
                "premise": "mary eats",
                "question": "what",
                "choices": ["one", "two", "three", "red"],
                "label": 3,
            },
            {"premise": "who is in london", "choices": ["john smith", "the old man"], "label": 1},
        ],
        {"pooling": "mean"},
    ),
    "tagging": Sample(
        [
            {
                "tokens": ["john", "smith", "works", "in", "berlin"],
                "tags": ["B-PER", "I-PER", "O", "O", "B-LOC"],
            },
            {
                "tokens": ["mary", "likes", "paris", "and", "london"],
                "tags": ["B-PER", "O", "B-LOC", "O", "B-LOC"],
            },
            {"tokens": "acme hates france", "tags": "B-ORG O B-LOC"},
            {"tokens": ["the", "unbelievable", "dog", "sleeps"], "tags": ["O", "O", "O", "O"]},
            {"tokens": list("我在上海"), "tags": ["O", "O", "B-LOC", "I-LOC"]},
        ],
    ),
    "spans": Sample(
        [
            {"text": "john smith works in berlin", "entities": [[0, 10, "PER"], [20, 26, "LOC"]]},
            {"text": "mary likes paris, and london.", "entities": [{"start": 11, "end": 16, "label": "LOC"}]},
            {"text": "我在上海", "entities": {"LOC": {"上海": [[2, 3]]}}},
            {"text": "the dog sleeps", "entities": []},
        ],
        {},
        "tagging",
    ),
    "qa": Sample(
        [
            _question("where does john work", "john smith works in berlin", "berlin"),
            _question("where is he", "he is in berlin not in london", "berlin"),
            _question(
                "who likes paris", "mary likes paris and john likes london", "mary", "mary likes paris"
            ),
            _question("我在哪", "我在上海的小电影", "上海"),
            _question("what is red", f"{'the old city is big and ' * 14}the book is red", "the book"),
            _question("who sleeps", f"a dog sleeps {'the old city is big and ' * 14}", "a dog"),
            _question("who eats", "the cat sleeps in paris"),
            _question("what is blue", f"one two three {'a cat and a dog ' * 12}"),
        ],
        {"stride": 12},
    ),
    "generation": Sample(
        [
            {"instruction": "Say a colour", "output": "red"},
            {"instruction": "Where is he", "input": "Tom is in the park", "output": "in the park"},
            {"instruction": "Name an animal", "output": "a cat"},
            {"instruction": "Count", "output": "one two three"},
        ],
        {"max_new_tokens": 12},
    ),
}


def make_rows(values: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [Row(dict(row), f"rows.jsonl:{line}") for line, row in enumerate(values, start=1)]


def fit_task(kind: str, rows: Sequence[Mapping[str, Any]], name: str = "t", **options: Any) -> Task:
    family = FAMILIES[kind]
    spec = family.spec_type.model_validate({"kind": kind, "train": "rows.jsonl", **options})
    return family.fit(name, spec, make_rows(rows))


@dataclass(frozen=True)
class Bench:
    """One fitted task with its rows encoded both ways."""

    task: Task
    rows: list[Row]
    learn: list[Encoded]
    ask: list[Encoded]
    tokenizer: Tokenizer


def _bench(name: str, tokenizer: Tokenizer) -> Bench:
    sample = SAMPLES[name]
    task = fit_task(sample.kind or name, sample.rows, name=name, **sample.options)
    rows = make_rows(sample.rows)
    learn, ask = (task.encode(rows, tokenizer, purpose) for purpose in (Purpose.LEARN, Purpose.ANSWER))
    assert all(isinstance(result, Encoded) for result in (*learn, *ask)), learn
    return Bench(task, rows, learn, ask, tokenizer)


@dataclass(frozen=True)
class Kit:
    """What test modules take from here: importlib mode has no package to import it from."""

    samples: Mapping[str, Sample]
    bench: Callable[[str], Bench]
    fit: Callable[..., Task]
    rows: Callable[[Sequence[Mapping[str, Any]]], list[Row]]
    trunk: Callable[..., ToyTrunk]
    words: Tokenizer
    story: Tokenizer
    chat: Callable[..., Tokenizer]

    def tensor(self, outputs: Outputs) -> Tensor:
        """Return what a head returned as one tensor."""
        return outputs.logits_MV() if isinstance(outputs, Projection) else outputs

    def network(self, *tasks: Task, trunk: nn.Module | None = None, seed: int = 5) -> Network:
        """Return a network with a new head for each of ``tasks``."""
        trunk = trunk or self.trunk()
        heads = {task.name: task.head(trunk.info, dropout=0.0, seed=seed) for task in tasks}
        return Network(trunk, heads)

    def answers(
        self, network: Network, task: Task, encoded: Sequence[Encoded], *, packed: bool = False
    ) -> list:
        """Return the answers to ``encoded`` in one batch."""
        batch = make_batch([(task.name, one) for one in encoded], {task.name: task}, pad=0, packed=packed)
        with torch.inference_mode():
            return task.answers(Inference(network.eval(), batch), encoded)


@pytest.fixture(scope="session")
def kit(tiny_bert: Path, stories260k: Path) -> Kit:
    """Return samples, builders and two real tokenizers: WordPiece and the 512 pieces of the 260k Llama."""
    words = load_tokenizer(locate(str(tiny_bert), None, root=Path()), max_tokens=64)
    story = load_tokenizer(locate(str(stories260k), None, root=Path()), max_tokens=128)
    benches: dict[str, Bench] = {}

    def bench(name: str) -> Bench:
        if name not in benches:
            benches[name] = _bench(name, story if name == "generation" else words)
        return benches[name]

    def chat(template: str | None, *marks: str, max_tokens: int = 128) -> Tokenizer:
        """Return the Llama's tokenizer with a chat template, and with special tokens more that its model has not."""
        from transformers import AutoTokenizer

        stock = AutoTokenizer.from_pretrained(stories260k, local_files_only=True)
        stock.add_tokens(list(marks), special_tokens=True)
        stock.chat_template = template
        return HFTokenizer(stock, max_tokens=max_tokens, has_segments=False)

    return Kit(SAMPLES, bench, fit_task, make_rows, ToyTrunk, words, story, chat)
