"""Where caches lie and how large they may be, as the environment says."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.core.caches import cache_home, limit_bytes
from weft.errors import RecipeError


def test_the_folder_is_the_variables_or_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
    assert cache_home() == tmp_path
    monkeypatch.delenv("WEFT_CACHE")
    assert cache_home() == Path.home() / ".cache" / "weft"


@pytest.mark.parametrize(("given", "expected"), [("2", 2**31), ("0.5", 2**29), ("0", 0), ("inf", 2**50)])
def test_the_limit_is_in_gib(monkeypatch, given, expected):
    monkeypatch.setenv("WEFT_CACHE_LIMIT", given)
    assert limit_bytes() == expected


def test_without_a_limit_eight_gib_are(monkeypatch):
    monkeypatch.delenv("WEFT_CACHE_LIMIT", raising=False)
    assert limit_bytes() == 2**33


@pytest.mark.parametrize("given", ["much", "", "-1", "nan"])
def test_a_limit_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("WEFT_CACHE_LIMIT", given)
    with pytest.raises(RecipeError, match="WEFT_CACHE_LIMIT: must be a number of GiB"):
        limit_bytes()
