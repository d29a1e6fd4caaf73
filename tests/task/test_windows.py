"""Where an answer stands in the windows of its context, and the best spans of all windows, as plain loops find them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from weft.model.tokenizer import HFTokenizer
from weft.task.windows import FIRST, Reading, Span, best_spans, token_spans

CONTEXT = "The cat 👍🏽 of 北京上海 likes e\u0301tude, café!  And  a dog in London."
ANSWERS = (
    "The cat",
    "cat",
    "👍🏽",
    "北京",
    "上海 likes",
    "e\u0301tude",
    "café",
    "café!",
    "a dog in London.",
    "And",
)


@dataclass(frozen=True)
class Place:
    """A context whose pieces are its words."""

    context: str
    bounds: tuple[tuple[int, int], ...]
    at: int = 3

    @property
    def reading(self) -> Reading:
        words, starts = self.context.split(" "), [0]
        for word in words:
            starts.append(starts[-1] + len(word) + 1)
        ends = [start + len(word) for start, word in zip(starts, words, strict=False)]
        return Reading(self.context, self.at, self.bounds, array("i", starts[:-1]), array("i", ends))


def stock_spans(stock: Any, question: str, answer: tuple[int, int], **how: Any) -> list[tuple[int, int]]:
    """Return each window's span by the rule of transformers' run_qa."""
    found = stock(
        question, CONTEXT, truncation="only_second", return_overflowing_tokens=True, return_offsets_mapping=True, **how
    )  # fmt: skip
    spans = []
    for number, places in enumerate(found["offset_mapping"]):
        own = [at for at, owner in enumerate(found.sequence_ids(number)) if owner == 1]
        first, last = own[0], own[-1]
        if not (places[first][0] <= answer[0] and places[last][1] >= answer[1]):
            spans.append((0, 0))
            continue
        while first < len(places) and places[first][0] <= answer[0]:
            first += 1
        while places[last][1] >= answer[1]:
            last -= 1
        spans.append((first - 1, last + 1))
    return spans


@pytest.mark.parametrize(("max_tokens", "overlap"), [(64, 8), (20, 4), (16, 5)])
@pytest.mark.parametrize("answer", ANSWERS)
def test_spans_are_those_of_run_qa(tiny_bert: Path, answer: str, max_tokens: int, overlap: int):
    stock = AutoTokenizer.from_pretrained(tiny_bert)
    tokenizer = HFTokenizer(
        AutoTokenizer.from_pretrained(tiny_bert), max_tokens=max_tokens, has_segments=True
    )
    (windows,) = tokenizer.windows(["who is it"], [CONTEXT], overlap=overlap)
    place = (CONTEXT.index(answer), CONTEXT.index(answer) + len(answer))
    spans = token_spans(windows, place)
    assert spans is not None
    if "\u0301" not in answer:  # BERT leaves the accent out, and run_qa then walks past the next word
        assert list(spans) == stock_spans(stock, "who is it", place, max_length=max_tokens, stride=overlap)
    assert max_tokens < 64 or spans[0] != FIRST


def by_bytes() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(["<s>", *alphabet])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<s>", pad_token="<s>")


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", ["bert", "bytes", "llama"])
def test_an_answer_is_read_back_letter_for_letter(tiny_bert: Path, stories260k: Path, name: str, answer: str):
    """Logits that point at the right tokens give the text as it stands in the context, in every script."""
    stocks = {"bytes": by_bytes, "bert": lambda: AutoTokenizer.from_pretrained(tiny_bert)}
    stock = stocks.get(name, lambda: AutoTokenizer.from_pretrained(stories260k))()
    tokenizer = HFTokenizer(stock, max_tokens=60, has_segments=False)
    (windows,) = tokenizer.windows(["who"], [CONTEXT], overlap=25)
    start = CONTEXT.index(answer)
    spans = token_spans(windows, (start, start + len(answer)))
    assert spans is not None
    assert any(span != FIRST for span in spans)
    reading = Reading(CONTEXT, windows.at, windows.bounds, windows.starts, windows.ends)
    for number, (first, last) in enumerate(spans):
        if (first, last) == FIRST:
            continue
        logits = [np.zeros((len(piece.tokens), 2), dtype=np.float32) for piece in windows.pieces]
        logits[number][first, 0] = logits[number][last, 1] = 9
        best = best_spans(reading, logits, most_tokens=60, number=1)[0]
        assert CONTEXT[best.start : best.end] == answer


def test_an_answer_that_is_cut_by_a_window_is_not_in_it():
    place = Place("aa bb cc dd ee", ((0, 3), (2, 5)))

    class Four:
        at, bounds = place.at, place.bounds
        starts, ends = place.reading.starts, place.reading.ends

    assert token_spans(Four, (3, 8)) == ((4, 5), FIRST)  # bb cc
    assert token_spans(Four, (6, 11)) == (FIRST, (3, 4))  # cc dd
    assert token_spans(Four, (6, 8)) == ((5, 5), (3, 3))  # cc is in both
    assert token_spans(Four, (4, 5)) == ((4, 4), FIRST), "half a word is its piece"
    assert token_spans(Four, (3, 11)) == (FIRST, FIRST)
    assert token_spans(Four, (2, 3)) is None, "a blank has no piece"
    assert token_spans(Four, None) == (FIRST, FIRST)


def naive(place: Place, logits: list[Any], *, most_tokens: int) -> dict[tuple[int, int], float]:
    """Return the best score of every span of characters, by loops over everything."""
    reading, found = place.reading, {}
    for (low, high), scores in zip(place.bounds, logits, strict=True):
        for first in range(low, high):
            for last in range(first, min(first + most_tokens, high)):
                score = np.float32(scores[place.at + first - low, 0] + scores[place.at + last - low, 1])
                span = reading.starts[first], reading.ends[last]
                found[span] = max(found.get(span, -np.inf), float(score))
    return found


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    length=st.integers(1, 24),
    most_tokens=st.integers(1, 30),
    number=st.integers(1, 30),
)
def test_the_best_spans_are_those_of_plain_loops(seed: int, length: int, most_tokens: int, number: int):
    random = np.random.default_rng(seed)
    bounds = tuple((low, min(low + 8, length)) for low in range(0, max(length - 3, 1), 5))
    place = Place(" ".join("abcdefgh"[: 1 + at % 3] for at in range(length)), bounds)
    logits = [random.normal(size=(place.at + high - low + 1, 2)).astype(np.float32) for low, high in bounds]
    found = best_spans(place.reading, logits, most_tokens=most_tokens, number=number)
    expected = naive(place, logits, most_tokens=most_tokens)
    best = sorted(expected.values(), reverse=True)[: len(found)]
    assert [span.score for span in found] == best
    assert {(span.start, span.end): span.score for span in found}.items() <= expected.items()
    assert number >= len(found) >= min(number, max(1, len(expected) // len(bounds)))


def test_special_tokens_and_blanks_are_never_an_answer():
    reading = Reading("a \n b", 2, ((0, 3),), array("i", [0, 1, 4]), array("i", [1, 4, 5]))
    logits = np.zeros((6, 2), dtype=np.float32)
    logits[[0, 1, 3, 5]] = 50.0  # CLS, a word of the question, the blank, SEP
    found = best_spans(reading, [logits], most_tokens=30, number=20)
    assert [(span.start, span.end) for span in found] == [(0, 1), (0, 5), (4, 5)]
    assert found[0] == Span(0, 1, 0.0)


def test_a_mark_stays_with_its_letter():
    context = "xe\u0301y \u2764\ufe0f"
    reading = Reading(context, 0, ((0, 4),), array("i", [0, 1, 2, 5]), array("i", [1, 2, 4, 6]))
    for first, last, text in (
        (1, 1, "e\u0301"),
        (2, 2, "e\u0301y"),
        (3, 3, "\u2764\ufe0f"),
        (0, 1, "xe\u0301"),
    ):
        logits = np.zeros((4, 2), dtype=np.float32)
        logits[first, 0] = logits[last, 1] = 9
        (span,) = best_spans(reading, [logits], most_tokens=4, number=1)
        assert context[span.start : span.end] == text
