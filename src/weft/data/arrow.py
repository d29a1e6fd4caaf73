"""Parquet and Arrow, and what the ``datasets`` library notes in them about its columns.

``ClassLabel`` numbers are read as their names, -1 and NaN as a missing value.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from weft.data.table import Record
from weft.errors import DataError

_BATCH_ROWS = 4096
_LISTS = frozenset({"List", "LargeList", "Sequence"})

_Reading = Callable[[Any], Any]
ArrowTable = Any  # pyarrow ships no types
_Schema = Any
_Batch = Any


def digest(path: Path) -> str:
    """Return the SHA-256 of the file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_parquet(path: Path, *, name: str) -> Iterator[Record]:
    """Yield the rows of a Parquet file, numbered from 1.

    Raises:
        DataError: not a whole Parquet file, two columns of one name, a string that is not UTF-8.
    """
    try:
        with pq.ParquetFile(path) as file:
            features = _noted_features(file.schema_arrow)
            yield from _rows(file.iter_batches(batch_size=_BATCH_ROWS), features, name=name)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name}: must be a whole Parquet file, but: {error}.") from error


def read_arrow(path: Path, *, name: str) -> Iterator[Record]:
    """Yield the rows of an Arrow file or stream (``datasets`` writes streams), numbered from 1.

    Raises:
        DataError: not a whole Arrow file, two columns of one name, a string that is not UTF-8.
    """
    try:
        with pa.memory_map(str(path)) as source:
            if source.read(6) == b"ARROW1":
                file = pa.ipc.open_file(source)
                batches = (file.get_batch(index) for index in range(file.num_record_batches))
                yield from _rows(batches, _noted_features(file.schema), name=name)
            else:
                source.seek(0)
                stream = pa.ipc.open_stream(source)
                yield from _rows(stream, _noted_features(stream.schema), name=name)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name}: must be a whole Arrow file, but: {error}.") from error


def read_table(table: ArrowTable, features: Mapping[str, Any], *, name: str) -> Iterator[Record]:
    """Yield the rows of ``table``; ``features`` as ``datasets.Features.to_dict`` has them."""
    return _rows(table.to_batches(max_chunksize=_BATCH_ROWS), features, name=name)


def table_digest(table: ArrowTable) -> str:
    """Return the SHA-256 of the content of ``table``, however it is cut into chunks."""
    sha = hashlib.sha256(table.schema.remove_metadata().to_string().encode())
    for name, column in zip(table.column_names, table.itercolumns(), strict=True):
        sha.update(json.dumps([name, column.to_pylist()], default=str).encode())
    return sha.hexdigest()


def _noted_features(schema: _Schema) -> Mapping[str, Any]:
    """Return the features that ``datasets`` has written into the schema, if it did."""
    try:
        note = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = note["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _rows(batches: Iterable[_Batch], features: Mapping[str, Any], *, name: str) -> Iterator[Record]:
    number = 0
    for batch in batches:
        names = batch.schema.names
        if len(set(names)) < len(names):
            raise DataError(f"{name}: column names must differ, but are {', '.join(names)}.")
        columns = [_values(batch, index, features, name) for index in range(len(names))]
        for values in zip(*columns, strict=True):
            number += 1
            yield dict(zip(names, values, strict=True)), number


def _values(batch: _Batch, index: int, features: Mapping[str, Any], name: str) -> list[Any]:
    column = batch.schema.names[index]
    try:
        values = batch.column(index).to_pylist()
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: strings must be UTF-8, but in the column {column} one is not.") from error
    if pa.types.is_floating(batch.schema.types[index]):
        return [None if value is None or math.isnan(value) else value for value in values]
    reading = _reading(features.get(column), f"{name}: column {column}")
    return values if reading is None else [reading(value) for value in values]


def _reading(feature: object, where: str) -> _Reading | None:
    """Return what turns a value of ``feature`` into what a person would write, None for nothing to do."""
    if isinstance(feature, list) and len(cast(list[object], feature)) == 1:
        return _each(_reading(cast(list[object], feature)[0], where))
    if not isinstance(feature, dict):
        return None
    feature = cast(dict[str, Any], feature)
    kind, names = feature.get("_type"), feature.get("names")
    if kind == "ClassLabel" and isinstance(names, list):
        return _class_name(cast(list[str], names), where)
    if kind == "Json":
        return lambda value: json.loads(value) if isinstance(value, str) else value
    return _each(_reading(feature.get("feature"), where)) if kind in _LISTS else None


def _each(reading: _Reading | None) -> _Reading | None:
    if reading is None:
        return None
    return lambda values: None if values is None else [reading(value) for value in values]


def _class_name(names: list[str], where: str) -> _Reading:
    def read(value: Any) -> Any:
        if not isinstance(value, int) or value < 0:
            return None if isinstance(value, int) else value
        if value >= len(names):
            raise DataError(
                f"{where}: a label must be below {len(names)}, the number of names, but is {value}."
            )
        return names[value]

    return read
