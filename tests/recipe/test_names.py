from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from weft.errors import NameInvalidError
from weft.recipe.names import Name, check_name


@pytest.mark.parametrize("name", ["a", "0", "stage-1", "Stage_2", "x" * 64, "console"])
def test_plain_names_stay(name: str):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "a\\b",
        "a.b",
        "a b",
        "-a",
        "_a",
        "x" * 65,
        "base",
        "BASE",
        "con",
        "Nul",
        "com1",
        "é",
        "a\n",
    ],
)
def test_what_is_not_a_plain_name(name: str):
    with pytest.raises(NameInvalidError, match="Choose a plain name"):
        check_name(name)
    with pytest.raises(ValidationError, match="must be 1-64 letters"):
        TypeAdapter(Name).validate_python(name)


@given(st.text(max_size=70))
def test_a_valid_name_stays_inside_its_folder(name: str):
    try:
        check_name(name)
    except NameInvalidError:
        return
    assert Path("/runs", name).resolve().parent == Path("/runs").resolve()
    assert name.lower() != "base"
