"""The Hub through the ``datasets`` library, which is played here: tests open no connection."""

from __future__ import annotations

import sys
from types import ModuleType

import pyarrow as pa
import pytest

from weft.data.hub import load
from weft.errors import DataError

TABLE = pa.table({"text": ["a", "b"], "label": [1, 0]})


class Features:
    def to_dict(self) -> dict[str, object]:
        return {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}


class Loaded:
    features = Features()

    def with_format(self, kind: str) -> Loaded:
        assert kind == "arrow"
        return self

    def __getitem__(self, rows: slice) -> pa.Table:
        return TABLE[rows]


class Library(ModuleType):
    """What ``datasets`` offers of itself, for the one set ``owner/name``."""

    __version__ = "4.1.0"

    def __init__(self) -> None:
        super().__init__("datasets")
        self.calls: list[tuple[str, str | None, str]] = []

    def get_dataset_split_names(self, path: str, config_name: str | None) -> list[str]:
        if path != "owner/name":
            raise FileNotFoundError(f"Dataset '{path}' doesn't exist on the Hub")
        return ["train", "validation"]

    def load_dataset(self, path: str, name: str | None, *, split: str) -> Loaded:
        self.calls.append((path, name, split))
        return Loaded()


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    played = Library()
    monkeypatch.setitem(sys.modules, "datasets", played)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    return played


def test_rows_with_the_names_of_their_classes(library: Library):
    split = load("owner/name", subset="small", split="train", name="owner/name@small:train")
    assert list(split.records) == [({"text": "a", "label": "pos"}, 1), ({"text": "b", "label": "neg"}, 2)]
    assert library.calls == [("owner/name", "small", "train")]
    assert len(split.digest) == 64


def test_dev_finds_validation(library: Library):
    load("owner/name", subset=None, split="dev", name="x")
    assert library.calls == [("owner/name", None, "validation")]


def test_a_split_must_be_named_where_there_are_several(library: Library):
    with pytest.raises(DataError, match=r"has train, validation\. Write owner/name:<split>"):
        load("owner/name", subset=None, split=None, name="owner/name")
    assert library.calls == []


def test_no_such_data_set(library: Library):
    with pytest.raises(
        DataError,
        match="owner/nam: must be a file, a folder or a data set of the Hub, but: Dataset 'owner/nam'",
    ):
        load("owner/nam", subset=None, split="train", name="owner/nam")


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
@pytest.mark.parametrize("value", ["1", "TRUE", "yes"])
def test_offline_nothing_is_asked(
    library: Library, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(DataError, match=f"needs a connection, but {variable} is set"):
        load("owner/name", subset=None, split="train", name="owner/name")
    assert library.calls == []


def test_offline_set_to_no_is_online(library: Library, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    load("owner/name", subset=None, split="train", name="x")
    assert len(library.calls) == 1


def test_without_the_library(library: Library, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        DataError, match=r"the datasets library, but it is missing\. Run pip install 'weft\[hub\]'"
    ):
        load("owner/name", subset=None, split="train", name="owner/name")


def test_a_library_that_could_run_scripts_is_refused(library: Library):
    library.__version__ = "3.6.0"
    with pytest.raises(DataError, match=r"datasets 4 or later, .* but 3\.6\.0 is installed"):
        load("owner/name", subset=None, split="train", name="owner/name")
    assert library.calls == []
