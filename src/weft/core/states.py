"""A store on disk for what frozen layers make of a text, so that no process computes it twice.

Many processes may read and write one store at once and be killed at any time: files appear whole (see
``weft.core.segments``), the same text in two files is harmless, and nothing that is read can execute. A store is a
cache: it never raises for a full or broken disk, it only keeps less. It is not for several threads at once.

Legend: R rows (texts) asked for, T their tokens, D width.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.core.segments import (
    KEY_BYTES,
    WHOLE,
    Draft,
    Form,
    Segment,
    alone,
    make_room,
    open_segment,
    tidy,
)

FORMAT = 1  # part of every store's folder name: another version of the format never meets these files
GRAIN_BYTES = 32 << 20  # what a writer asks for at a time
MISSING = -1

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """Where texts lie in a store, as arrays that are looked up once and then taken from at every step.

    Attributes:
        segment_R: number of the file within the store that said so, ``MISSING`` for a text it does not have.
        offset_R: first token.
        length_R: tokens.
    """

    segment_R: Ints
    offset_R: Ints
    length_R: Ints

    @staticmethod
    def missing(count: int) -> Slots:
        """Return ``count`` slots of texts that a store does not have."""
        return Slots(np.full(count, MISSING, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64))

    def __len__(self) -> int:
        return len(self.segment_R)

    @property
    def is_found_R(self) -> NDArray[np.bool_]:
        """Which texts the store has."""
        return self.segment_R != MISSING

    def take(self, rows: Sequence[int] | Ints) -> Slots:
        """Return the slots of ``rows``, in that order."""
        return Slots(self.segment_R[rows], self.offset_R[rows], self.length_R[rows])

    def put(self, rows: Sequence[int] | Ints, slots: Slots) -> None:
        """Replace the slots of ``rows``, e.g. by what ``StateStore.add`` returned."""
        self.segment_R[rows] = slots.segment_R
        self.offset_R[rows] = slots.offset_R
        self.length_R[rows] = slots.length_R

    def tokens_T(self) -> Ints:
        """Return the number of every token of every row within its file."""
        ends_R = self.length_R.cumsum()
        total = int(ends_R[-1]) if len(ends_R) else 0
        return (self.offset_R - ends_R + self.length_R).repeat(self.length_R) + np.arange(total)


class StateStore:
    """The stored states of one frozen trunk; open one with ``StateStore.open``.

    What ``add`` takes is readable here at once, and by others (and after a crash) from ``publish`` on. Slots stay valid
    as long as the store that made them is open, whatever other processes remove: a mapped file outlives its name.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> with StateStore.open(root, "ab" * 16, width=2, dtype=torch.float32, limit_bytes=10**8) as store:
        ...     key = state_key([5, 6])
        ...     _ = store.add([key], torch.tensor([[1.0, 2.0], [3.0, 4.0]]), [2])
        ...     store.gather(store.resolve([key])).tolist()
        [[1.0, 2.0], [3.0, 4.0]]
    """

    def __init__(self, root: Path, directory: Path, form: Form, *, limit_bytes: int) -> None:
        self._root, self._directory, self._form, self._limit_bytes = root, directory, form, limit_bytes
        self._where: dict[bytes, int] = {}  # key: entry in the three arrays
        self._segment, self._offset, self._length = array("q"), array("q"), array("q")
        self._segments: dict[
            int, Segment
        ] = {}  # by number; files of our own need no checking and are not here
        self._states: list[Tensor] = []  # by number
        self._names: set[str] = set()
        self._draft: Draft | None = None
        self._draft_number = MISSING
        self.why_full = ""

    @staticmethod
    def open(root: Path, key: str, *, width: int, dtype: torch.dtype, limit_bytes: int) -> StateStore:
        """Open or create the store ``key`` below ``root`` and read its indexes.

        Args:
            root: folder of all stores, created with mode 0700.
            key: hex digest of all that decides the states besides the text: weights, cut, precision.
            width: D.
            dtype: float32, bfloat16 or float16.
            limit_bytes: for all stores below ``root`` together.

        Raises:
            ValueError: ``key`` is not a hex digest.
        """
        if not re.fullmatch(r"[0-9a-f]{8,128}", key):
            raise ValueError(f"key: must be 8 to 128 hex digits, but is {key!r}.")
        store = StateStore(root, root / f"{key}-{FORMAT}", Form(width, dtype), limit_bytes=limit_bytes)
        tidy(store._directory)
        store.refresh()
        return store

    def __enter__(self) -> StateStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Return how many texts can be found here."""
        return len(self._where)

    @property
    def is_full(self) -> bool:
        """Whether new texts are no longer kept; ``why_full`` says why."""
        return bool(self.why_full)

    def refresh(self) -> int:
        """Take in what other processes have published since and return the number of files; slots stay valid."""
        before = len(self._states)
        for path in sorted(self._directory.glob(f"*{WHOLE}")):
            if path.name in self._names:
                continue
            try:
                segment = open_segment(path, self._form)
            except ValueError:
                _forget(path)
                continue
            if segment is not None:
                self._names.add(path.name)
                self._admit(segment)
        return len(self._states) - before

    def resolve(self, keys: Iterable[bytes]) -> Slots:
        """Return where texts lie, once for all steps to come.

        Rows are compared with their checksums here, at their first time, so nothing but what was written is ever
        gathered. A file with a wrong row is removed and its texts are missing.
        """
        keys = list(keys)
        while True:
            slots = self._look_up(keys)
            bad = [number for number in self._segments if not self._holds(number, slots)]
            if not bad:
                return slots
            for number in bad:
                self._drop(number)

    def gather(self, slots: Slots, *, extra_tokens: int = 0) -> Tensor:
        """Return the states of all tokens of all rows end to end, a new tensor (T + extra, D).

        Args:
            slots: of the rows.
            extra_tokens: zeros to add at the end, for a caller that rounds its number of tokens.

        Raises:
            KeyError: a row is missing.
        """
        return self._select(slots.tokens_T(), slots.segment_R, repeats=slots.length_R, extra=extra_tokens)

    def add(self, keys: Sequence[bytes], states_TD: Tensor, lengths: Sequence[int]) -> Slots:
        """Keep the states of texts and return where they lie: missing where there was no room for them.

        Args:
            keys: of the texts, by ``state_key``; one that is known already is not written again.
            states_TD: their states end to end, of this store's width and dtype, on any device.
            lengths: tokens of each, at least one.

        Raises:
            ValueError: sizes do not agree with one another or with the store.
        """
        self._check(keys, states_TD, lengths)
        new: dict[bytes, tuple[int, int]] = {}
        start = 0
        for key, length in zip(keys, lengths, strict=True):
            if key not in self._where and key not in new:
                new[key] = (start, length)
            start += length
        if new and not self.is_full:
            rows_TD = states_TD.detach()
            if len(new) < len(keys):
                rows_TD = torch.cat([rows_TD[at : at + length] for at, length in new.values()])
            self._append(list(new), rows_TD.cpu(), [length for _, length in new.values()])
        return self._look_up(keys)

    def publish(self) -> bool:
        """Make everything added so far durable and visible to other processes; False when the disk refused it."""
        draft, self._draft = self._draft, None
        if draft is None or not draft.used_bytes:
            if draft is not None:
                draft.discard()
            return True
        try:
            path = draft.publish()
        except OSError as error:
            draft.discard()
            self._forget_texts(self._draft_number)  # the disk may have lost them
            self._stop(str(error))
            return False
        self._names.add(path.name)
        return True

    def close(self) -> None:
        """Publish, and let go of all files; slots are worth nothing from here on."""
        self.publish()
        self._where.clear()
        self._segments.clear()
        self._states.clear()
        self._stop("closed")

    def _select(self, index: Ints, segment_R: Ints, *, repeats: Ints | int, extra: int) -> Tensor:
        """Return tokens ``index`` of the files ``segment_R``, each file standing for ``repeats`` tokens."""
        out = torch.empty(len(index) + extra, self._form.width, dtype=self._form.dtype)
        if extra:
            out[len(index) :] = 0
        if not len(segment_R):
            return out
        lowest, highest = int(segment_R.min()), int(segment_R.max())
        if lowest < 0:
            rows = np.flatnonzero(segment_R < 0).tolist()
            raise KeyError(f"slots: every row must be in the store, but rows {rows[:5]} are not.")
        if lowest == highest:
            torch.index_select(self._states[lowest], 0, torch.from_numpy(index), out=out[: len(index)])
            return out
        segment = segment_R.repeat(repeats)
        for number in np.unique(segment_R).tolist():
            there = np.flatnonzero(segment == number)
            rows_TD = self._states[number].index_select(0, torch.from_numpy(index[there]))
            out.index_copy_(0, torch.from_numpy(there), rows_TD)
        return out

    def _look_up(self, keys: Sequence[bytes]) -> Slots:
        slots = Slots.missing(len(keys))
        for row, key in enumerate(keys):
            entry = self._where.get(key)
            if entry is not None:
                slots.segment_R[row] = self._segment[entry]
                slots.offset_R[row] = self._offset[entry]
                slots.length_R[row] = self._length[entry]
        return slots

    def _holds(self, number: int, slots: Slots) -> bool:
        segment = self._segments[number]
        if segment.verified.all():
            return True
        there = slots.take(np.flatnonzero(slots.segment_R == number))
        return segment.holds(there.offset_R, there.length_R)

    def _drop(self, number: int) -> None:
        _forget(self._segments.pop(number).path)
        self._forget_texts(number)

    def _forget_texts(self, number: int) -> None:
        self._where = {key: entry for key, entry in self._where.items() if self._segment[entry] != number}

    def _admit(self, segment: Segment) -> None:
        number = len(self._states)
        self._states.append(segment.states_TD)
        self._segments[number] = segment
        keys = (segment.keys[at : at + KEY_BYTES] for at in range(0, len(segment.keys), KEY_BYTES))
        self._enter(number, keys, segment.lengths_R.tolist(), first=0)

    def _enter(self, number: int, keys: Iterable[bytes], lengths: Sequence[int], *, first: int) -> None:
        for key, length in zip(keys, lengths, strict=True):
            if self._where.setdefault(key, len(self._segment)) == len(self._segment):
                self._segment.append(number)
                self._offset.append(first)
                self._length.append(length)
            first += length

    def _append(self, keys: list[bytes], rows_TD: Tensor, lengths: list[int]) -> None:
        try:
            draft = self._with_room(rows_TD.shape[0] * self._form.row_bytes, texts=len(keys))
            if draft is None:
                self._stop(f"the limit of {self._limit_bytes} bytes is reached")
                return
            first = draft.append(keys, rows_TD, lengths)
        except OSError as error:
            self._stop(str(error))
            return
        self._enter(self._draft_number, keys, lengths, first=first)

    def _with_room(self, rows_bytes: int, *, texts: int) -> Draft | None:
        """Return the draft, started or grown so that ``rows_bytes`` and the index fit; None at the limit.

        Raises:
            OSError: the disk does not allow it.
        """
        draft = self._draft
        index_bytes = 8192 + 2 * KEY_BYTES * texts + (draft.index_bytes if draft else 0)
        needed = rows_bytes + index_bytes + (draft.used_bytes if draft else 0)
        if draft and needed <= draft.capacity_bytes:
            return draft
        with alone(self._root):
            has = draft.capacity_bytes if draft else 0
            wanted = max(needed, has + GRAIN_BYTES) - has
            free = make_room(self._root, wanted_bytes=wanted, limit_bytes=self._limit_bytes)
            if has + free < needed:
                return None
            if draft is None:
                self._directory.mkdir(mode=0o700, exist_ok=True)
                draft = self._draft = Draft(self._directory, self._form)
                self._draft_number = len(self._states)
                self._states.append(draft.states_TD)
            draft.grow(has + min(free, wanted))
            self._states[self._draft_number] = draft.states_TD
        return draft

    def _check(self, keys: Sequence[bytes], states_TD: Tensor, lengths: Sequence[int]) -> None:
        form = self._form
        if states_TD.shape != (sum(lengths), form.width) or states_TD.dtype != form.dtype:
            raise ValueError(
                f"states: must be ({sum(lengths)}, {form.width}) of {form.dtype}, "
                f"but are {tuple(states_TD.shape)} of {states_TD.dtype}."
            )
        if len(keys) != len(lengths) or any(length < 1 for length in lengths):
            raise ValueError(f"lengths: must be {len(keys)} numbers above 0, but are {list(lengths)[:5]}.")
        if any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"keys: must have {KEY_BYTES} bytes each; make them with state_key.")

    def _stop(self, why: str) -> None:
        self.why_full = self.why_full or why


def state_key(tokens: Iterable[int], segments: Iterable[int] | None = None) -> bytes:
    """Return 128 bits of a digest of a text as the trunk sees it: its tokens and segments (token types)."""
    ids = array("q", tokens)
    digest = hashlib.blake2b(len(ids).to_bytes(8, "little"), digest_size=KEY_BYTES)
    digest.update(ids.tobytes())
    digest.update(array("q", segments or ()).tobytes())
    return digest.digest()


def _forget(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
