"""Text told while it is generated adds up to the answer, and never takes anything back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from weft.core.decoding import Decoding, Stops
from weft.task.answering import read
from weft.task.speech import UNFINISHED, Speech, whole


def by_byte(tokens) -> str:
    return bytes(tokens).decode("utf-8", errors="replace")


def spoken(text: str, *, stop: tuple[str, ...] = ()) -> tuple[list[str], str]:
    """Return the pieces told before the end, and the answer."""
    how = Decoding(max_new_tokens=99, stop_tokens=(0,), stops=Stops(stop, by_byte) if stop else None)
    pieces: list[str] = []
    speech = Speech(by_byte, how, pieces.append)
    for token in [*text.encode(), 0]:
        speech(token)
    told = list(pieces)
    answer = (how.stops.cut(text) if how.stops else text).strip()
    speech.finish(answer)
    assert "".join(pieces) == answer
    return told, answer


def test_characters_are_told_whole_and_outer_blanks_never():
    assert spoken(" 你 好\n") == (["你", " 好"], "你 好")
    assert spoken("") == ([], "")


def by_run(tokens) -> str:
    """Read tokens as byte fallback does: nothing of a run that is no text."""
    try:
        return bytes(tokens).decode()
    except UnicodeDecodeError:
        return UNFINISHED * len(tokens)


def test_a_character_that_is_not_whole_takes_no_others_with_it():
    own = list("春眠😀".encode())
    texts = [whole(own[:number], by_run) for number in range(len(own) + 1)]
    assert texts == [*[""] * 3, *["春"] * 3, *["春眠"] * 4, "春眠😀"]
    assert whole([0x80] * 9, by_run) == UNFINISHED * 9  # no text at all stays what it is
    how = Decoding(max_new_tokens=5, stop_tokens=(0,))
    assert read(own[:5], how, by_run) == "春"


def test_what_may_begin_a_stop_string_waits():
    assert spoken("ab<end>c", stop=("<end>",)) == (["a", "b"], "ab")
    assert spoken("a<b", stop=("<end>",)) == (["a", "<b"], "a<b")
    told, answer = spoken("a<e", stop=("<end>",))
    assert (told, answer) == (["a"], "a<e")


@given(st.text(st.sampled_from("ab #好\n"), max_size=30), st.sampled_from([(), ("##",), ("好b", "#")]))
def test_pieces_add_up(text, stop):
    told, answer = spoken(text, stop=stop)
    assert answer.startswith("".join(told))
