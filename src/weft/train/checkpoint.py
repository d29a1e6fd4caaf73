"""Checkpoints that are whole or not there: written aside, hashed, fsynced, renamed; verified before they are used.

The way of a checkpoint: ``<name>.tmp-<pid>-<random>/`` with every file and a manifest -> ``<name>/`` by one rename.
Safetensors carries no checksum of its own and loads a flipped bit without a word, hence the manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from weft.core.disk import sync
from weft.errors import CheckpointError
from weft.recipe.names import check_name

FORMAT = 1
MANIFEST = "MANIFEST.json"
LATEST = "LATEST"  # for people and scripts; what counts is the listing
_ASIDE = ".tmp-"
_CORRUPT = ".corrupt"
_MARGIN = 1 << 20  # bytes: manifest, JSON files, directory blocks


def ignore_file(name: str) -> None:
    """Do nothing after a file was written: what ``save`` calls unless told otherwise."""


def save(
    folder: Path,
    name: str,
    files: Mapping[str, Mapping[str, Any]],
    *,
    about: Mapping[str, Any],
    on_file: Callable[[str], None] = ignore_file,
) -> Path:
    """Write a checkpoint; return its folder ``folder / name``, which appears only when it is whole and on disk.

    Args:
        folder: of all checkpoints of a stage; made if there is none.
        name: a plain name; the number in it orders checkpoints.
        files: content by file name: tensors by path for ``.safetensors``, JSON values for ``.json``.
        about: JSON values for the manifest, such as the digests of recipe, data and parent.
        on_file: called with a name after each file, the rename and LATEST are on disk; for tests that inject faults.

    Raises:
        CheckpointError: there is one of this name, the disk is full, or the folder cannot be written. Nothing of
            the new checkpoint stays then, and earlier ones are as they were.
    """
    target = folder / check_name(name)
    if target.exists():
        raise CheckpointError(
            f"{target}: a checkpoint is written once, but this one exists. Choose another name."
        )
    needed = sum(_num_bytes(content) for content in files.values())
    preflight(folder, needed)
    aside = folder / f"{name}{_ASIDE}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        aside.mkdir()
        _write_all(aside, files, about, on_file)
        aside.rename(target)
        sync(folder)
        on_file("rename")
        _point(folder, name)
        on_file(LATEST)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)  # before the free bytes are told
        free = shutil.disk_usage(folder).free
        raise CheckpointError(
            f"{folder}: a checkpoint needs {needed} bytes, but could not be written with {free} bytes free ({error}). "
            f"Earlier checkpoints are whole; free space and resume."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def preflight(folder: Path, needed: int) -> None:
    """Make ``folder`` and see that it can be written and has room.

    Args:
        folder: of checkpoints.
        needed: bytes that are to be written.

    Raises:
        CheckpointError: not writable, or not enough room; path, free and needed bytes are named.
    """
    probe = folder / f"probe{_ASIDE}{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise CheckpointError(
            f"{folder}: checkpoints need a folder that can be written, but this one cannot be ({error}). "
            f"Choose another folder for the run."
        ) from error
    free = shutil.disk_usage(folder).free
    if free < needed + _MARGIN:
        raise CheckpointError(
            f"{folder}: checkpoints need {needed + _MARGIN} bytes, but {free} are free. Free space, or keep fewer."
        )


def _num_bytes(content: Mapping[str, Any]) -> int:
    tensors = (value for value in content.values() if isinstance(value, Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _write_all(
    aside: Path,
    files: Mapping[str, Mapping[str, Any]],
    about: Mapping[str, Any],
    on_file: Callable[[str], None],
) -> None:
    entries: list[dict[str, Any]] = []
    for name, content in files.items():
        path = aside / name
        _write(path, content)
        entries.append({"name": name, "bytes": path.stat().st_size, "sha256": _sha256(path)})
        on_file(name)
    _write(aside / MANIFEST, {"format": FORMAT, "files": entries, "about": dict(about)})
    sync(aside)
    on_file(MANIFEST)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    match path.suffix:
        case ".safetensors":
            tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in content.items()}
            safetensors.torch.save_file(tensors, path)
        case ".json":
            path.write_text(
                json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8"
            )
        case _:
            raise ValueError(f"{path.name}: a checkpoint holds .safetensors and .json files only.")
    path.chmod(0o644)  # safetensors makes files that only their owner can read
    sync(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _point(folder: Path, name: str) -> None:
    aside = folder / f"{LATEST}{_ASIDE}{os.getpid()}"
    aside.write_text(name + "\n", "utf-8")
    sync(aside)
    aside.replace(folder / LATEST)
    sync(folder)


def verify(path: Path) -> str | None:
    """Return why the checkpoint at ``path`` cannot be used, naming the file, or None if every byte is as written."""
    return _fault(path, read_content=True)


def _fault(path: Path, *, read_content: bool) -> str | None:
    try:
        entries = _entries(path)
    except FileNotFoundError:
        return f"{MANIFEST}: missing, the checkpoint was never finished"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST}: cannot be read ({error})"
    for name, num_bytes, sha256 in entries:
        file = path / name
        if not file.is_file():
            return f"{name}: missing"
        if (found := file.stat().st_size) != num_bytes:
            return f"{name}: must have {num_bytes} bytes, but has {found}"
        if read_content and _sha256(file) != sha256:
            return f"{name}: content differs from its sha256 in the manifest"
    return None


def _entries(path: Path) -> list[tuple[str, int, str]]:
    manifest = json.loads((path / MANIFEST).read_text("utf-8"))
    if manifest["format"] != FORMAT:
        raise ValueError(f"format {manifest['format']}, this version of Weft reads {FORMAT}")
    entries = [(str(file["name"]), int(file["bytes"]), str(file["sha256"])) for file in manifest["files"]]
    for name, _, _ in entries:
        if Path(name).name != name:
            raise ValueError(f"file name {name!r} leads elsewhere")
    return entries


def about(path: Path) -> dict[str, Any]:
    """Return what ``save`` was told about the checkpoint at ``path``, which must be verified."""
    return dict(json.loads((path / MANIFEST).read_text("utf-8"))["about"])


def tensors(path: Path, name: str) -> dict[str, Tensor]:
    """Return the tensors in file ``name`` of the verified checkpoint at ``path``, on the CPU."""
    return safetensors.torch.load_file(path / name)


def values(path: Path, name: str) -> dict[str, Any]:
    """Return the JSON values in file ``name`` of the verified checkpoint at ``path``."""
    return dict(json.loads((path / name).read_text("utf-8")))


def newest(folder: Path) -> tuple[Path | None, list[tuple[Path, str]]]:
    """Return the newest checkpoint that verifies, and those newer than it that do not, each with the reason.

    The listing is the truth, not LATEST; newer means a higher number in the name, whatever the clock says. Rejected
    ones are renamed to ``*.corrupt`` and returned under that name; nothing is deleted.
    """
    rejected: list[tuple[Path, str]] = []
    for path in reversed(_listing(folder)):
        reason = verify(path)
        if reason is None:
            return path, rejected
        rejected.append((set_aside(path), reason))
    return None, rejected


def _listing(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    folders = (path for path in folder.iterdir() if path.is_dir() and "." not in path.name)
    return sorted(folders, key=lambda path: (int((re.findall(r"\d+", path.name) or ["-1"])[-1]), path.name))


def set_aside(path: Path) -> Path:
    """Rename the checkpoint at ``path`` so that it counts no more, and return its new path; nothing is deleted."""
    taken = {other.name for other in path.parent.iterdir()}
    suffixes = (_CORRUPT if number == 1 else f"{_CORRUPT}-{number}" for number in range(1, len(taken) + 2))
    return path.rename(
        path.with_name(next(path.name + suffix for suffix in suffixes if path.name + suffix not in taken))
    )


@dataclass(frozen=True, slots=True)
class Rotation:
    """What ``rotate`` did: folders removed, and those it could not remove with the reason."""

    removed: Sequence[Path] = ()
    failed: Sequence[tuple[Path, str]] = ()


def rotate(folder: Path, *, keep: int, pinned: Collection[str] = ()) -> Rotation:
    """Remove all checkpoints but the newest ``keep`` and the ``pinned`` ones, once the newest one verifies.

    Only checkpoints whose manifest and sizes are right count as kept; a broken one is left for people to look at.
    If the newest does not verify, nothing is removed: it may be that only the old ones are good.

    Raises:
        ValueError: ``keep`` is less than 1.
    """
    if keep < 1:
        raise ValueError(f"keep: must be at least 1, but is {keep}.")
    listed = _listing(folder)
    if not listed or verify(listed[-1]) is not None:
        return Rotation()
    whole = [path for path in listed if _fault(path, read_content=False) is None and path.name not in pinned]
    removed: list[Path] = []
    failed: list[tuple[Path, str]] = []
    for path in whole[:-keep]:
        try:
            _remove(path)
        except OSError as error:
            failed.append((path, str(error)))
        else:
            removed.append(path)
    return Rotation(removed, failed)


def _remove(path: Path) -> None:
    (path / MANIFEST).unlink()  # first: what is left is no checkpoint, whenever the process dies
    sync(path)
    shutil.rmtree(path.rename(path.with_name(f"{path.name}{_ASIDE}{os.getpid()}-{secrets.token_hex(4)}")))


def tidy(folder: Path) -> list[Path]:
    """Remove what a killed process left half written; return it. Only for the one who holds the run's lock."""
    if not folder.is_dir():
        return []
    left = sorted(path for path in folder.iterdir() if _ASIDE in path.name)
    for path in left:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return left
