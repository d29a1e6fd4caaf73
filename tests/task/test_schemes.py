"""Tag schemes: recognised, spelled alike, repaired without changing spans."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.metric.tagging import spans
from weft.task.schemes import Scheme, all_tags, num_broken, recognise, repaired, spelled, write

SPANNED = [scheme for scheme in Scheme if scheme is not Scheme.PLAIN]


@pytest.mark.parametrize(
    ("rows", "scheme"),
    [
        (["B-X I-X O B-Y", "O B-X"], Scheme.BIO),
        (["I-X I-X O I-Y", "I-X B-X"], Scheme.IOB1),
        (["I-X I-X O I-Y"], Scheme.IO),
        (["S-X O B-Y E-Y"], Scheme.BIOES),
        (["U-X O B-Y L-Y"], Scheme.BIOES),
        (["S-X O B-Y M-Y E-Y"], Scheme.BIOES),
        (["NN VB NN"], Scheme.PLAIN),
        (["PER PER O"], Scheme.PLAIN),
        (["O O"], Scheme.PLAIN),
        (["B-X I-X", "B-X O I-X B-X B-Y"], Scheme.BIO),
        (["B-X I-X NN"], None),
    ],
)
def test_recognise(rows, scheme):
    assert recognise([row.split() for row in rows]) is scheme


def test_known_tags_count_for_what_a_scheme_may_write():
    assert recognise([["I-X", "O"]]) is Scheme.IO
    assert recognise([["I-X", "O"]], ["B-X"]) is Scheme.IOB1
    assert recognise([["B-X", "O"]], ["E-X"]) is Scheme.BIOES


@st.composite
def _spans(draw: st.DrawFn, *, apart: bool) -> tuple[list, int]:
    """Draw spans that do not overlap; ``apart``: and do not touch, for the scheme that cannot say so."""
    found, end = [], 0
    for _ in range(draw(st.integers(0, 4))):
        start = end + draw(st.integers(1 if apart else 0, 2))
        end = start + draw(st.integers(1, 3))
        found.append((draw(st.sampled_from(["X", "Y", "a-b"])), start, end))
    return found, end + draw(st.integers(0, 2))


@pytest.mark.parametrize("scheme", SPANNED)
@settings(deadline=None)
@given(data=st.data())
def test_what_is_written_is_read_back(scheme, data):
    found, num_words = data.draw(_spans(apart=scheme is Scheme.IO))
    tags = write(found, num_words, scheme)
    assert len(tags) == num_words
    assert spans(tags) == found
    assert num_broken(tags, scheme) == 0
    assert spelled(tags, scheme) == tags
    assert set(tags) <= set(all_tags(tags, scheme))


@pytest.mark.parametrize("scheme", SPANNED)
@settings(deadline=None)
@given(data=st.data())
def test_a_repair_keeps_the_spans_and_is_final(scheme, data):
    marks = {Scheme.BIOES: "BIES", Scheme.IO: "I"}.get(scheme, "BI")
    choices = ["O", *(f"{mark}-{kind}" for mark in marks for kind in "XY")]
    tags = data.draw(st.lists(st.sampled_from(choices), max_size=8))
    right = repaired(tags, scheme)
    assert spans(right) == spans(tags)
    assert repaired(right, scheme) == right
    assert num_broken(tags, scheme) == sum(a != b for a, b in zip(tags, right, strict=True))


def test_repairs_by_hand():
    assert repaired("O I-X I-X".split(), Scheme.BIO) == ("O", "B-X", "I-X")
    assert repaired("B-X I-Y".split(), Scheme.BIO) == ("B-X", "B-Y")
    assert repaired("B-X O I-X E-X".split(), Scheme.BIOES) == ("S-X", "O", "B-X", "E-X")
    assert repaired("B-X I-X".split(), Scheme.IOB1) == ("I-X", "I-X")
    assert repaired(["whatever"], Scheme.PLAIN) == ("whatever",)


@pytest.mark.parametrize(
    ("tags", "scheme", "result"),
    [
        ("B-X M-X E-X S-Y", Scheme.BIOES, ("B-X", "I-X", "E-X", "S-Y")),
        ("B-X I-X L-X U-Y W-Y", Scheme.BIOES, ("B-X", "I-X", "E-X", "S-Y", "S-Y")),
        ("PER O I-LOC", Scheme.IO, ("I-PER", "O", "I-LOC")),
        ("B-X NN", Scheme.BIO, None),
        ("S-X", Scheme.BIO, None),
        ("B-X", Scheme.IO, None),
        ("B-X NN", Scheme.PLAIN, ("B-X", "NN")),
    ],
)
def test_spelled(tags, scheme, result):
    assert spelled(tags.split(), scheme) == result


def test_all_tags_are_complete_for_the_types_seen():
    assert all_tags(["O", "I-PER", "B-LOC"], Scheme.BIO) == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert all_tags(["S-X"], Scheme.BIOES) == ("O", "B-X", "I-X", "E-X", "S-X")
    assert all_tags(["I-X"], Scheme.IO) == ("O", "I-X")
    assert all_tags(["VB", "NN", "VB"], Scheme.PLAIN) == ("NN", "VB")
