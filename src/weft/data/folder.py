"""Folders: one that ``datasets`` saved, or one of data files, of which a split chooses."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from weft.errors import DataError, nearest

DATA_SUFFIXES = frozenset(
    ".arrow .bio .conll .csv .iob .iob2 .json .jsonl .ndjson .parquet .tsv .txt".split()
)
_DEV_NAMES = ("dev", "validation", "valid", "val")
_NOT_DATA = frozenset(
    "dataset_dict.json dataset_info.json dataset_infos.json state.json metadata.json requirements.txt".split()
)
_PLAIN = re.compile(r"[^\W.][\w.+-]*")
_SHARD = re.compile(r"(?P<split>.+)-\d+-of-\d+")


def files(folder: Path, *, subset: str | None, split: str | None, name: str) -> tuple[Path, ...]:
    """Return the data files of a split of ``folder``, in order.

    A split's file is ``<split>.<ending>``, or its shards ``<split>-00000-of-00002.<ending>``, in the folder or in its
    ``data`` folder. Without a split, the folder must hold one.

    Raises:
        DataError: no such subset or split, several to choose from, or a list of files that leads out of the folder.
    """
    if subset is not None:
        folder = folder / subset
        if not folder.is_dir():
            raise DataError(f"{name}: the subset must be a folder, but {folder} is none.")
    if (folder / "dataset_dict.json").is_file():
        splits = [path.parent.name for path in folder.glob("*/state.json")]
        return _saved(folder / pick_split(split, splits, name=name), name=name)
    if (folder / "state.json").is_file():
        if split is not None:
            raise DataError(
                f"{name}: the folder must hold splits, but is a single saved one. Leave out :{split}."
            )
        return _saved(folder, name=name)
    return _plain(folder, split=split, name=name)


def pick_split(split: str | None, splits: Collection[str], *, name: str) -> str:
    """Return which of ``splits`` is meant: the same name, or another name of the dev split, or the only one.

    Raises:
        DataError: there is none of that name, or several and none was named.
    """
    if split is None:
        if len(splits) == 1:
            return next(iter(splits))
        what = f"has {', '.join(sorted(splits))}" if splits else "has none"
        raise DataError(f"{name}: must hold one split when none is named, but {what}. Write {name}:<split>.")
    same = (split, *(_DEV_NAMES if split in _DEV_NAMES else ()))
    for candidate in same:
        if candidate in splits:
            return candidate
    raise DataError(f"{name}: must have the split {split}, but has not. {nearest(split, splits)}")


def suffix(path: Path) -> str:
    """Return the ending that says the format, in lower case and without ``.gz``."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _plain(folder: Path, *, split: str | None, name: str) -> tuple[Path, ...]:
    by_split = _by_split(folder.iterdir())
    if not by_split and (folder / "data").is_dir():
        by_split = _by_split((folder / "data").iterdir())
    if not by_split:
        endings = " ".join(sorted(DATA_SUFFIXES))
        raise DataError(f"{name}: must hold data files, but holds none that ends in {endings}.")
    found = by_split[pick_split(split, by_split, name=name)]
    whole = [path for path in found if _SHARD.fullmatch(_stem(path)) is None]
    if whole and len(found) > 1:
        listed = ", ".join(path.name for path in found)
        raise DataError(
            f"{name}: a split must be one file or the shards of one, but is {listed}. Name the file."
        )
    return tuple(found)


def _by_split(paths: Iterable[Path]) -> dict[str, list[Path]]:
    by_split: dict[str, list[Path]] = {}
    for path in sorted(paths):
        is_data = (
            suffix(path) in DATA_SUFFIXES and path.name not in _NOT_DATA and not path.name.startswith(".")
        )
        if is_data and path.is_file():
            shard = _SHARD.fullmatch(_stem(path))
            by_split.setdefault(shard["split"] if shard else _stem(path), []).append(path)
    return by_split


def _stem(path: Path) -> str:
    return path.name[: len(path.name.lower().removesuffix(".gz")) - len(suffix(path))]


def _saved(folder: Path, *, name: str) -> tuple[Path, ...]:
    """Return the Arrow files that ``state.json`` lists; it is not trusted to stay inside the folder."""
    path = folder / "state.json"
    try:
        state: Any = json.loads(path.read_text(encoding="utf-8"))
        listed = [entry["filename"] for entry in state["_data_files"]]
        is_mapped = bool(state.get("_indices_data_files"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{name}: {path} must list the data files, but cannot be read: {error!r}.") from error
    if is_mapped:
        raise DataError(
            f"{name}: must be saved flat, but has a table of indices. Save it again with datasets 2 or later."
        )
    for file in listed:
        if not isinstance(file, str) or not _PLAIN.fullmatch(file) or not (folder / file).is_file():
            raise DataError(f"{name}: {path} must list files beside it, but lists {file!r}.")
    return tuple(folder / file for file in listed)
