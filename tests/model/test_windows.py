"""Windows of a context behind its question: transformers' own, with places that are characters in every script."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from weft.build.tokens import RememberingTokenizer
from weft.data.tokens import TokenStore
from weft.model.folder import inspect
from weft.model.tokenizer import HFTokenizer, Windows, load_tokenizer, strided

WORDS = "the cat of london sleeps in a big red house and the dog is not happy with it".split()
CONTEXT = " ".join(WORDS * 5)
SCRIPTS = "Café in 北京, e\u0301tude 👨‍👩‍👧 naïve 👍🏽!  我在上海。 the end"


def byte_level(*, roberta: bool) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE without merges but for the blank before a letter: most characters are several pieces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", "<pad>", *alphabet])}
    merges = [("Ġ", letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary |= {"".join(pair): len(vocabulary) + index for index, pair in enumerate(merges)}
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = (
        processors.RobertaProcessing(("</s>", 1), ("<s>", 0), add_prefix_space=False)
        if roberta
        else processors.ByteLevel(trim_offsets=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")


def wrapped(stock: PreTrainedTokenizerFast, max_tokens: int) -> HFTokenizer:
    return HFTokenizer(stock, max_tokens=max_tokens, has_segments=False)


def check(
    windows: Windows, stock: Any, question: str, context: str, *, max_tokens: int, overlap: int
) -> None:
    """Hold windows against what run_qa asks transformers for: tokens, segments, and the places of the context."""
    expected = stock(
        question,
        context,
        truncation="only_second",
        max_length=max_tokens,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    assert [list(piece.tokens) for piece in windows.pieces] == expected["input_ids"]
    if windows.pieces[0].segments is not None:
        assert [list(piece.segments or ()) for piece in windows.pieces] == expected["token_type_ids"]
    for number, (first, end) in enumerate(windows.bounds):
        owners = expected.sequence_ids(number)
        of_context = [at for at, owner in enumerate(owners) if owner == 1]
        assert of_context == list(range(windows.at, windows.at + end - first))
        places = [expected["offset_mapping"][number][at] for at in of_context]
        ours = list(zip(windows.starts[first:end], windows.ends[first:end], strict=True))
        assert ours == [tuple(place) for place in places]


@pytest.mark.parametrize(("max_tokens", "overlap"), [(32, 8), (24, 0), (64, 20), (128, 30)])
@pytest.mark.parametrize("context", [CONTEXT, "the cat", SCRIPTS * 2])
def test_windows_are_those_of_transformers(tiny_bert: Path, max_tokens: int, overlap: int, context: str):
    tokenizer = load_tokenizer(inspect(tiny_bert, name="bert"), max_tokens=max_tokens)
    (windows,) = tokenizer.windows(["who is in london"], [context], overlap=overlap)
    stock = AutoTokenizer.from_pretrained(tiny_bert)
    check(windows, stock, "who is in london", context, max_tokens=max_tokens, overlap=overlap)


@pytest.mark.parametrize("roberta", [True, False])
def test_pieces_of_bytes_stand_at_characters(roberta: bool):
    tokenizer = wrapped(byte_level(roberta=roberta), 40)
    (windows,) = tokenizer.windows(["where?"], [SCRIPTS], overlap=8)
    check(windows, byte_level(roberta=roberta), "where?", SCRIPTS, max_tokens=40, overlap=8)
    assert max(windows.ends) == len(SCRIPTS) < len(windows.ends)
    for character in ("京", "\u0301", "👍", "🏽"):
        at = SCRIPTS.index(character)
        assert (at, at + 1) in set(zip(windows.starts, windows.ends, strict=True))


def test_a_decoder_has_windows_too(stories260k: Path):
    tokenizer = load_tokenizer(inspect(stories260k, name="llama"), max_tokens=48)
    (windows,) = tokenizer.windows(["who is it"], [CONTEXT], overlap=10)
    stock = AutoTokenizer.from_pretrained(stories260k)
    check(windows, stock, "who is it", CONTEXT, max_tokens=48, overlap=10)
    assert all(piece.segments is None for piece in windows.pieces)


def test_what_is_asked_is_cut_and_counted_once_where_it_leaves_no_room(tiny_bert: Path):
    tokenizer = load_tokenizer(inspect(tiny_bert, name="bert"), max_tokens=23)
    (windows,) = tokenizer.windows([" ".join(WORDS * 3)], [CONTEXT], overlap=128)
    assert {len(piece.tokens) for piece in windows.pieces[:-1]} == {23}
    assert windows.at == 1 + 10 + 1, "half of the 20 that special tokens leave"
    (length,) = {len(tokens) for tokens in tokenizer.plain([" ".join(WORDS * 3)])}
    assert [piece.num_cut for piece in windows.pieces[:2]] == [length - 10, 0]
    steps = {second[0] - first[0] for first, second in pairwise(windows.bounds)}
    assert steps == {5}, "an overlap of more than half of a window would hardly advance"


def test_no_context_is_one_window(tiny_bert: Path):
    tokenizer = load_tokenizer(inspect(tiny_bert, name="bert"), max_tokens=16)
    (empty,) = tokenizer.windows(["who is it"], [""], overlap=4)
    assert empty.bounds == ((0, 0),)
    assert empty.pieces == tuple(tokenizer.texts(["who is it"], [""]))


def test_many_at_once_are_as_one_by_one(tiny_bert: Path, tmp_path: Path):
    tokenizer = load_tokenizer(inspect(tiny_bert, name="bert"), max_tokens=24)
    contexts = [CONTEXT, "the cat", CONTEXT, SCRIPTS]
    questions = ["who", "what is it", "where", "when"]
    together = tokenizer.windows(questions, contexts, overlap=6)
    apart = [tokenizer.windows([q], [c], overlap=6)[0] for c, q in zip(contexts, questions, strict=True)]
    assert together == apart
    assert together[0].starts is together[2].starts, "a context of several questions is kept once"
    remembering = RememberingTokenizer(tokenizer, TokenStore(tmp_path, 1 << 20), worth_characters=0)
    assert remembering.windows(questions, contexts, overlap=6) == together


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, 200), room=st.integers(1, 50), overlap=st.integers(0, 49))
def test_windows_cover_everything_and_share_what_they_should(length: int, room: int, overlap: int):
    overlap = min(overlap, room - 1)
    bounds = strided(length, room, overlap=overlap)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == length
    assert all(end - first == room for first, end in bounds[:-1])
    assert bounds[-1][1] - bounds[-1][0] <= room
    for (_, end), (first, last) in pairwise(bounds):
        assert end - first == overlap
        assert last > end, "each window brings something new"
