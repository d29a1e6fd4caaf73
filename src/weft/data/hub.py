"""Data sets of the Hugging Face Hub, through the optional ``datasets`` library."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from weft.data import arrow
from weft.data.folder import pick_split
from weft.data.table import Record
from weft.errors import DataError

_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FIRST_SAFE_MAJOR = 4  # before it, `datasets` could run a script that comes with the data


@dataclass(frozen=True, slots=True)
class HubSplit:
    """One split of a data set of the Hub, downloaded."""

    records: Iterator[Record]
    digest: str


def load(dataset: str, *, subset: str | None, split: str | None, name: str) -> HubSplit:
    """Return a split of ``dataset`` on the Hub; nothing that comes with it is executed.

    Raises:
        DataError: the library is missing or too old, the process is offline, or the Hub has no such data set.
    """
    library = _library(dataset, name)
    try:
        found = pick_split(split, library.get_dataset_split_names(dataset, subset), name=name)
        loaded = library.load_dataset(dataset, subset, split=found)
    except DataError:
        raise
    except Exception as error:  # the library promises no error types
        raise DataError(
            f"{name}: must be a file, a folder or a data set of the Hub, but: {error}."
        ) from error
    table = loaded.with_format("arrow")[:]
    records = arrow.read_table(table, loaded.features.to_dict(), name=name)
    return HubSplit(records, arrow.table_digest(table))


def _library(dataset: str, name: str) -> Any:
    wanted = f"{name}: is no file or folder here; to be read from the Hugging Face Hub it needs"
    offline = [variable for variable in _OFFLINE if os.environ.get(variable, "").lower() in _TRUE]
    if offline:
        raise DataError(
            f"{wanted} a connection, but {offline[0]} is set. Unset it, or download the data into <folder>/{dataset} "
            f"and say data_root: <folder>."
        )
    try:
        library = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"{wanted} the datasets library, but it is missing. Run pip install 'weft[hub]'."
        ) from error
    if int(library.__version__.split(".")[0]) < _FIRST_SAFE_MAJOR:
        raise DataError(
            f"{wanted} datasets {_FIRST_SAFE_MAJOR} or later, which runs no script of a data set, but "
            f"{library.__version__} is installed."
        )
    return library
