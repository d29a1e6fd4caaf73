"""Text to token ids: whole lists go to the Rust tokenizer in one call, special tokens and cutting are done here.

Where a tokenizer puts its special tokens is read off once from a probe (``Frame``). So every list is encoded without
them, which makes truncation and the count of cut tokens exact for texts, pairs and pre-split words alike.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from weft.core.stock import StockText
from weft.errors import ModelError
from weft.model.backbone import UNLIMITED
from weft.model.decoder import reply_start
from weft.model.folder import VOCABULARY_FILES, ModelFolder
from weft.model.quiet import quiet
from weft.model.rendering import Rendered, rendering
from weft.model.stock_tokenizer import as_used

_MAX_CHARACTERS = 1_000_000  # of one text; all beyond is far outside of any row, and would only cost memory
_MAX_CHAT_GROWTH = 100_000  # characters that a chat template may add to a conversation
_LOCATED_AT_ONCE = 1000  # texts whose pieces and places the Rust tokenizer holds at a time
_PROBE = "a"
_BREAK = "\n"
_LANGUAGE = re.compile(  # as mBART, NLLB and M2M100 write them
    r"([a-z]{2,3}_[A-Z]{2}|[a-z]{3}_[A-Z][a-z]{3})|__([a-z]{2,3})__"
)
_BEHIND_PADDING = frozenset(
    {"roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm", "mpnet"}
)


@dataclass(frozen=True, slots=True)
class Pieces:
    """One tokenized text; see ``weft.task.base.Pieces``."""

    tokens: tuple[int, ...]
    segments: tuple[int, ...] | None
    num_cut: int
    first: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Windows:
    """One pair as windows; see ``weft.task.base.Windows``."""

    pieces: tuple[Pieces, ...]
    at: int
    bounds: tuple[tuple[int, int], ...]
    starts: array[int]
    ends: array[int]


@dataclass(frozen=True, slots=True)
class _Located:
    """All pieces of a text, and the characters that each stands for."""

    tokens: tuple[int, ...]
    starts: array[int]
    ends: array[int]


@dataclass(frozen=True, slots=True)
class Frame:
    """The special tokens around one text or a pair, and the segment of each part.

    ``parts`` holds runs of special tokens: before the first text, after it, and (pairs) after the second.
    """

    parts: tuple[tuple[int, ...], ...]
    part_segments: tuple[tuple[int, ...], ...]
    text_segments: tuple[int, ...]
    num_special: int = field(init=False)
    """How many tokens are not of the texts."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_special", sum(map(len, self.parts)))

    def tokens(self, *texts: Sequence[int]) -> tuple[int, ...]:
        """Return ``texts`` with the special tokens around them."""
        out = list(self.parts[0])
        for text, part in zip(texts, self.parts[1:], strict=True):
            out += text
            out += part
        return tuple(out)

    def segments(self, *lengths: int) -> tuple[int, ...]:
        """Return the segment of every token of texts of ``lengths`` with the special tokens around them."""
        out = list(self.part_segments[0])
        for length, segment, part in zip(lengths, self.text_segments, self.part_segments[1:], strict=True):
            out += [segment] * length
            out += part
        return tuple(out)


class HFTokenizer:
    """A fast transformers tokenizer behind Weft's protocol.

    Args:
        tokenizer: a ``PreTrainedTokenizerFast``; its own truncation and padding are switched off.
        max_tokens: longest row, special tokens included.
        has_segments: whether the trunk tells segments apart.
        reply_start: token that the model's decoder begins to write from; None for a model of one stack.

    Attributes:
        pad: id of the padding token, else of the end token, else 0.
        stop: id of the end token, else of the separator, else ``pad``.
        unknown: id of the token that stands for what the vocabulary does not have; None where that is another one too.
        languages: ids of the tokens that say the language of a text, by code (en_XX, eng_Latn, en); empty where none of them
            stands around a text.
    """

    def __init__(
        self, tokenizer: Any, *, max_tokens: int, has_segments: bool, reply_start: int | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._has_segments = has_segments
        self._single = _frame(self._backend, pair=False)
        self._pair = _frame(self._backend, pair=True)
        self._segments: dict[tuple[int, ...], tuple[int, ...]] = {}  # by the lengths of the texts
        self._is_spaced = _needs_space(self._backend)
        self._opens_texts = _opens_texts(self._backend)
        self._specials = {str(token): number for number, token in tokenizer.added_tokens_decoder.items()}
        self.languages = _languages(self._specials, self._single)
        self.max_tokens = max_tokens
        self.reply_start = reply_start
        self.pad = _first_set(tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.stop = _first_set(tokenizer.eos_token_id, tokenizer.sep_token_id, self.pad)
        self.unknown = _unknown(tokenizer)
        if max_tokens <= self._pair.num_special:
            raise ModelError(
                f"max_tokens: must leave room beside {self._pair.num_special} special tokens, but is {max_tokens}. "
                f"Raise it."
            )

    @property
    def digest(self) -> str:
        """Digest of all that decides which tokens a text becomes, but for ``max_tokens``."""
        about = f"{version('tokenizers')} {self._has_segments} {self.stop}\n"
        return hashlib.sha256((about + self._backend.to_str()).encode()).hexdigest()

    @property
    def start(self) -> tuple[int, ...]:
        """Tokens that open a causal text: what the tokenizer puts before a text itself, else its BOS.

        A BOS that is the end token too (GPT-2) separates documents and opens none.
        """
        begin = self._tokenizer.bos_token_id
        if self._single.parts[0] or begin is None or begin == self._tokenizer.eos_token_id:
            return self._single.parts[0]
        return (begin,)

    def texts(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Pieces]:
        """Return each text (or text pair) with special tokens, cut to ``max_tokens`` (pairs: longest first).

        A text without any token becomes one ``stop`` token where the tokenizer adds no special tokens: no row is empty.
        A text of over a million characters is cut there before it is tokenized; ``num_cut`` then says at least.
        """
        bodies = self._encode([text[:_MAX_CHARACTERS] for text in texts])
        if pairs is None:
            return [self._framed(body) for body in bodies]
        seconds = self._encode([text[:_MAX_CHARACTERS] for text in pairs])
        return [self._framed_pair(first, second) for first, second in zip(bodies, seconds, strict=True)]

    def words(self, sentences: Sequence[Sequence[str]]) -> list[Pieces]:
        """Return each pre-split sentence with special tokens, cut to ``max_tokens``; ``Pieces.first`` is set.

        Byte-level vocabularies tell the start of a word by the space before it, so each word gets one there.
        """
        spaced = [[self._word(word) for word in sentence] for sentence in sentences]
        encodings = self._backend.encode_batch(spaced, is_pretokenized=True, add_special_tokens=False)
        return [
            self._framed_words(encoding, num_words=len(sentence))
            for encoding, sentence in zip(encodings, sentences, strict=True)
        ]

    def windows(self, texts: Sequence[str], pairs: Sequence[str], *, overlap: int) -> list[Windows]:
        """Return each pair as strided windows of its second text, each behind the first text, with special tokens.

        All of the second text is in one window or another (up to a million characters). The first is cut to half of
        the room, and ``num_cut`` of the first window says so.

        Args:
            texts: repeated in each window.
            pairs: to be windowed, one for each text.
            overlap: tokens that two neighbouring windows share; at most half of what a window has of the second text.
        """
        firsts = self._encode([text[:_MAX_CHARACTERS] for text in texts])
        located = self._located(pairs)
        return [
            self._windows(first, located[text], overlap=overlap)
            for first, text in zip(firsts, pairs, strict=True)
        ]

    def plain(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return each text's token ids without special tokens and without cutting."""
        return [tuple(ids) for ids in self._encode(list(texts))]

    def room(self, *, is_pair: bool) -> int:
        """Return how many tokens of a text, or of both texts of a pair, a row holds beside its special tokens."""
        return self.max_tokens - (self._pair if is_pair else self._single).num_special

    def frame(self, first: Sequence[int], second: Sequence[int] | None = None) -> Pieces:
        """Return one text's (or pair's) token ids with special tokens around them, cut to ``max_tokens``."""
        return self._framed(first) if second is None else self._framed_pair(first, second)

    def continued(self, texts: Sequence[str], *, behind: str = "\n") -> list[tuple[int, ...]]:
        """Return the ids of each text as it goes on behind another, which ends with ``behind``.

        SentencePiece puts a blank before a text of its own. Texts are then read behind ``behind``, which is taken away.
        """
        if not self._opens_texts:
            return self.plain(texts)
        found = self._encode([behind + text for text in texts])
        head = found and self._encode([behind])[0]
        return [
            tuple(ids[len(head) :]) if ids[: len(head)] == head else self.plain([text])[0]
            for ids, text in zip(found, texts, strict=True)
        ]

    @property
    def template(self) -> str | None:
        """The tokenizer's own chat template, None without one; of several the one called default."""
        found = self._tokenizer.chat_template
        return (found.get("default") if isinstance(found, Mapping) else found) or None

    @property
    def specials(self) -> Mapping[str, int]:
        """Ids of the tokens that no text is merged with, by what they look like."""
        return self._specials

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        template: str,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        is_open: bool = False,
        end: str = "",
    ) -> Rendered:
        """Return a conversation as the chat template ``template`` writes it; see ``weft.task.base.Tokenizer``.

        Raises:
            TemplateRefusal: the template fails on this conversation.
            ModelError: it blows the conversation up.
        """
        names = dict(self._tokenizer.special_tokens_map)
        own = next((mark for mark, number in self._specials.items() if number == self.stop), "")
        names["end"] = end if end in self._specials else own
        rendered = rendering(messages, template, tools=tools, is_open=is_open, names=names)
        written = len(json.dumps([list(messages), list(tools)], ensure_ascii=False, default=str))
        if len(rendered.text) > _MAX_CHAT_GROWTH + 10 * written:
            raise ModelError(
                f"chat template: must add little text, but made {len(rendered.text)} characters. Do not use it."
            )
        return rendered

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ``tokens`` without special tokens."""
        return self._tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def save(self, folder: Path, text: StockText | None = None) -> None:
        """Write the tokenizer's files into ``folder``, as a task that generates ``text`` uses it."""
        first = next(iter(self._single.parts[0]), None)
        used = self._tokenizer if text is None else as_used(self._tokenizer, text, first=first)
        used.save_pretrained(folder)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def _located(self, texts: Sequence[str]) -> dict[str, _Located]:
        """Return the pieces of each distinct text; the places are characters, also where pieces are bytes."""
        found: dict[str, _Located] = {}
        distinct = list(dict.fromkeys(texts))
        for first in range(0, len(distinct), _LOCATED_AT_ONCE):
            some = distinct[first : first + _LOCATED_AT_ONCE]
            encodings = self._backend.encode_batch(
                [text[:_MAX_CHARACTERS] for text in some], add_special_tokens=False
            )
            for text, encoding in zip(some, encodings, strict=True):
                places = encoding.offsets
                starts, ends = (array("i", [place[side] for place in places]) for side in (0, 1))
                found[text] = _Located(tuple(encoding.ids), starts, ends)
        return found

    def _windows(self, first: list[int], text: _Located, *, overlap: int) -> Windows:
        room = self.room(is_pair=True)
        kept = first[: room // 2]
        room -= len(kept)
        bounds = strided(len(text.tokens), room, overlap=min(overlap, room // 2))
        pieces = [self._framed_pair(kept, text.tokens[start:end]) for start, end in bounds]
        pieces[0] = replace(pieces[0], num_cut=len(first) - len(kept))
        at = len(self._pair.parts[0]) + len(kept) + len(self._pair.parts[1])
        return Windows(tuple(pieces), at, bounds, text.starts, text.ends)

    def _word(self, word: str) -> str:
        word = word[:_MAX_CHARACTERS]
        return f" {word}" if self._is_spaced and word.strip() else word.strip()

    def _segments_of(self, *lengths: int) -> tuple[int, ...]:
        """Return the segments of texts of ``lengths``; rows of equal lengths share them."""
        if lengths not in self._segments:
            frame = self._single if len(lengths) == 1 else self._pair
            self._segments[lengths] = frame.segments(*lengths)
        return self._segments[lengths]

    def _framed(self, body: Sequence[int], first: tuple[int, ...] | None = None) -> Pieces:
        kept = body[: self.max_tokens - self._single.num_special]
        tokens = self._single.tokens(kept) or (self.stop,)
        segments = self._segments_of(len(kept)) if self._has_segments else None
        return Pieces(tokens, segments, len(body) - len(kept), first)

    def _framed_pair(self, first: Sequence[int], second: Sequence[int]) -> Pieces:
        room = self.max_tokens - self._pair.num_special
        len_first, len_second = longest_first(len(first), len(second), room)
        tokens = self._pair.tokens(first[:len_first], second[:len_second]) or (self.stop,)
        segments = self._segments_of(len_first, len_second) if self._has_segments else None
        return Pieces(tokens, segments, len(first) + len(second) - len_first - len_second)

    def _framed_words(self, encoding: Any, *, num_words: int) -> Pieces:
        room = self.max_tokens - self._single.num_special
        starts: dict[int, int] = {}
        for position, word in enumerate(encoding.word_ids):
            starts.setdefault(word, position)
        num_kept = num_words
        if len(encoding.ids) > room:
            num_kept = max((word for word, position in starts.items() if position < room), default=-1) + 1
        shift = len(self._single.parts[0])
        first = tuple(starts[word] + shift if word in starts else -1 for word in range(num_kept))
        return self._framed(encoding.ids, first)


def load_tokenizer(folder: ModelFolder, *, max_tokens: int) -> HFTokenizer:
    """Return the tokenizer of a checked model folder.

    Args:
        folder: as ``locate`` returned it.
        max_tokens: longest row wanted; the limits of the tokenizer and of the model's positions hold too.

    Raises:
        ModelError: no tokenizer that can be loaded, or one whose special tokens the model does not have.
    """
    from transformers import AutoConfig, AutoTokenizer

    if not any((folder.path / name).is_file() for name in VOCABULARY_FILES):
        # Without one, transformers would make up a tokenizer that knows no words.
        raise ModelError(
            f"{folder.path}: must hold one of {', '.join(VOCABULARY_FILES)}, but holds none. Choose a complete folder."
        )
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                folder.path, local_files_only=True, trust_remote_code=False
            )
            config = AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, LookupError, ImportError) as error:
        raise ModelError(
            f"{folder.path}: must hold a tokenizer, but {error}. Choose a complete folder."
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{folder.path}: must hold a fast tokenizer (tokenizer.json), but holds a slow one. Convert it."
        )
    has_segments = (
        "token_type_ids" in tokenizer.model_input_names and getattr(config, "type_vocab_size", 0) > 1
    )
    limit = min(max_tokens, int(tokenizer.model_max_length), max_positions(config))
    start = reply_start(config)
    loaded = HFTokenizer(tokenizer, max_tokens=limit, has_segments=has_segments, reply_start=start)
    vocabulary = int(getattr(config, "vocab_size", 0))
    if max(loaded.pad, loaded.stop) >= vocabulary:
        raise ModelError(
            f"{folder.path}: special tokens must be among the model's {vocabulary} embeddings, but padding is "
            f"{loaded.pad} and the end is {loaded.stop}. The tokenizer is of another model."
        )
    return loaded


def max_positions(config: Any) -> int:
    """Return the longest row that a model takes, from its config alone: RoBERTa's kind counts from behind padding."""
    stored = getattr(config, "max_position_embeddings", None)
    if not isinstance(stored, int):
        return UNLIMITED
    return stored - (config.pad_token_id + 1 if config.model_type in _BEHIND_PADDING else 0)


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the lengths to which a pair is cut so that it fits ``room``: the longer text gives until both are equal.

    An odd token stays with the longer text, with the second one where they are equally long (as in ``tokenizers``).
    """
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (shorter, room - shorter) if first <= second else (room - shorter, shorter)


def strided(length: int, room: int, *, overlap: int) -> tuple[tuple[int, int], ...]:
    """Return the bounds of the windows that ``length`` tokens make, neighbours sharing ``overlap`` tokens.

    The last one ends with the text and may be shorter (as in ``tokenizers``); no tokens are one empty window.

    Args:
        length: of the text, in tokens.
        room: tokens of a window, more than ``overlap``.
        overlap: shared with the next window.

    Example:
        >>> strided(10, 6, overlap=2), strided(6, 6, overlap=2), strided(0, 6, overlap=2)
        (((0, 6), (4, 10)), ((0, 6),), ((0, 0),))
    """
    firsts = range(0, max(length - overlap, 1), room - overlap)
    return tuple((first, min(first + room, length)) for first in firsts)


def _frame(backend: Any, *, pair: bool) -> Frame:
    """Read the special tokens off a probe: those of the encoding that belong to none of its texts."""
    texts = (_PROBE, _PROBE) if pair else (_PROBE,)
    probe = backend.encode(*texts)
    parts: list[list[int]] = [[]]
    part_segments: list[list[int]] = [[]]
    text_segments: list[int] = []
    for token, segment, text in zip(probe.ids, probe.type_ids, probe.sequence_ids, strict=True):
        if text is None:
            parts[-1].append(token)
            part_segments[-1].append(segment)
        elif text == len(text_segments):
            text_segments.append(segment)
            parts.append([])
            part_segments.append([])
    if len(text_segments) != len(texts):
        raise ModelError(
            f"tokenizer: must give {_PROBE!r} a token, but gives it none. It is not of a text model."
        )
    return Frame(tuple(map(tuple, parts)), tuple(map(tuple, part_segments)), tuple(text_segments))


def _languages(specials: Mapping[str, int], frame: Frame) -> Mapping[str, int]:
    """Return the tokens of languages by code, if one of them is among those around a text."""
    found = {
        next(filter(None, match.groups())): number
        for mark, number in specials.items()
        if (match := _LANGUAGE.fullmatch(mark))
    }
    around = {token for part in frame.parts for token in part}
    return found if around & set(found.values()) else {}


def _needs_space(backend: Any) -> bool:
    """Return whether a pre-split word must carry its space to be read as in running text (GPT-2, RoBERTa, Qwen)."""
    running = backend.encode(f"{_PROBE} {_PROBE}", add_special_tokens=False).ids
    split = backend.encode([f" {_PROBE}", f" {_PROBE}"], is_pretokenized=True, add_special_tokens=False).ids
    bare = backend.encode([_PROBE, _PROBE], is_pretokenized=True, add_special_tokens=False).ids
    return bare[-1:] != running[-1:] and split[-1:] == running[-1:]


def _opens_texts(backend: Any) -> bool:
    """Return whether a text gets something before it that it does not have behind other text (SentencePiece's blank)."""
    head, alone, behind = (
        backend.encode(text, add_special_tokens=False).ids for text in (_BREAK, _PROBE, _BREAK + _PROBE)
    )
    return behind[: len(head)] == head and behind[len(head) :] != alone


def _unknown(tokenizer: Any) -> int | None:
    """Return the id of the unknown token; GPT-2 names its end token so, which says nothing."""
    found = tokenizer.unk_token_id
    return None if found in (tokenizer.eos_token_id, tokenizer.bos_token_id) else found


def _first_set(*ids: int | None) -> int:
    return next(token for token in ids if token is not None)
