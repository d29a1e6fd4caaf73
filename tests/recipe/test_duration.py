from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from weft.recipe.duration import Duration, Unit


@pytest.mark.parametrize(
    ("text", "amount", "unit", "shown"),
    [
        ("3 epochs", 3, Unit.EPOCHS, "3 epochs"),
        ("1 epoch", 1, Unit.EPOCHS, "1 epoch"),
        ("0.5 epochs", 0.5, Unit.EPOCHS, "0.5 epochs"),
        ("2000 steps", 2000, Unit.STEPS, "2k steps"),
        ("5k examples", 5000, Unit.EXAMPLES, "5k examples"),
        ("10M tokens", 10_000_000, Unit.TOKENS, "10M tokens"),
        ("1.5M tokens", 1_500_000, Unit.TOKENS, "1.5M tokens"),
        ("20 minutes", 20, Unit.MINUTES, "20 minutes"),
        ("1234567 steps", 1_234_567, Unit.STEPS, "1234.567k steps"),
        ("  7steps ", 7, Unit.STEPS, "7 steps"),
    ],
)
def test_parse_and_show(text: str, amount: float, unit: Unit, shown: str):
    duration = Duration.parse(text)
    assert (duration.amount, duration.unit) == (amount, unit)
    assert str(duration) == shown


@example(Unit.STEPS, 9_862_901_430_970, 0)
@given(st.sampled_from(list(Unit)), st.integers(1, 10**14), st.integers(0, 999_999))
def test_what_is_shown_is_read_back_exactly(unit: Unit, whole: int, millionths: int):
    fraction = millionths / 1e6 if unit in (Unit.EPOCHS, Unit.MINUTES) and whole < 10**6 else 0
    duration = Duration(whole + fraction, unit)
    assert Duration.parse(str(duration)) == duration
    assert hash(Duration.parse(str(duration))) == hash(duration)


@pytest.mark.parametrize(
    "text", ["3", "epochs", "0 epochs", "-1 steps", "1.5 steps", "1e3 steps", "3 weeks", "", "nan epochs"]
)
def test_what_is_not_a_duration(text: str):
    with pytest.raises(ValueError, match="must be"):
        Duration.parse(text)


def test_too_small_to_be_said_is_not_positive():
    with pytest.raises(ValueError, match="positive"):
        Duration(1e-9, Unit.MINUTES)


def test_it_cannot_be_changed():
    duration = Duration.parse("1 epoch")
    with pytest.raises(AttributeError, match="immutable"):
        duration.amount = 2


def test_copies_and_pickles_are_equal():
    duration = Duration.parse("1.5 epochs")
    assert copy.deepcopy(duration) == duration
    assert pickle.loads(pickle.dumps(duration)) == duration


def test_the_decoder_takes_text_and_durations_and_has_one_error_for_the_rest():
    adapter = TypeAdapter(Duration)
    assert adapter.validate_python("1 epoch") == adapter.validate_python(Duration.parse("1 epoch"))
    assert adapter.validate_json('"1 epoch"') == Duration.parse("1 epoch")
    assert adapter.dump_json(Duration.parse("2k steps")) == b'"2k steps"'
    for wrong in (3, None, [], "3 weeks"):
        with pytest.raises(ValidationError) as info:
            adapter.validate_python(wrong)
        assert info.value.error_count() == 1
