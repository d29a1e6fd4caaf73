"""Folders: one that ``datasets`` saved, or one of data files, of which a split chooses."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
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
_SHARD = re.compile(r"(?P<split>.+)-\d+-of-\d+(-[0-9a-f]{16})?")  # older files of the Hub end in a digest
PACKED = (".gz", ".bz2", ".xz", ".zst")


def files(folder: Path, *, subset: str | None, split: str | None, name: str) -> tuple[Path, ...]:
    """Return the data files of a split of ``folder``, in order.

    A split's file is ``<split>.<ending>``, or its shards ``<split>-00000-of-00002.<ending>``, in the folder or else in
    its ``data`` folder or the only folder in it (a data set of the Hub with one subset). Without a split, the folder
    must hold one.

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


def subsets(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the names of the splits in each folder inside ``folder`` that holds data files, by its name.

    Raises:
        DataError: a symbolic link among them leads nowhere.
    """
    inside = (path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith("."))
    found = {path.name: tuple(_by_split(path, name=str(path))) for path in inside}
    return {name: splits for name, splits in found.items() if splits}


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
    """Return the ending that says the format, in lower case and without ``.gz`` and the like."""
    return Path(_unpacked(path.name.lower())).suffix


def _unpacked(name: str) -> str:
    return next((name[: -len(ending)] for ending in PACKED if name.lower().endswith(ending)), name)


def _plain(folder: Path, *, split: str | None, name: str) -> tuple[Path, ...]:
    by_split = _by_split(folder, name=name)
    if not by_split:
        inside = [
            path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")
        ]
        data = [path for path in inside if path.name == "data"]
        by_split = _by_split((data or inside)[0], name=name) if data or len(inside) == 1 else {}
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


def _by_split(folder: Path, *, name: str) -> dict[str, list[Path]]:
    by_split: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        is_data = (
            suffix(path) in DATA_SUFFIXES and path.name not in _NOT_DATA and not path.name.startswith(".")
        )
        if is_data and not path.exists():
            raise DataError(
                f"{name}: {path.name} must lead to a file, but is a symbolic link that leads nowhere. Correct the link."
            )
        if is_data and path.is_file():
            shard = _SHARD.fullmatch(_stem(path))
            by_split.setdefault(shard["split"] if shard else _stem(path), []).append(path)
    return by_split


def _stem(path: Path) -> str:
    return _unpacked(path.name)[: -len(suffix(path))]


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
