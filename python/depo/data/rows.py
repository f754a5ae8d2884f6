"""Read the rows of a JSONL file, a Parquet file or a Hugging Face data set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from depo.types.errors import DataError, install_hint

Row = tuple[str, dict[str, Any]]
"""Place of the row for messages, counted from 1, and its columns."""

JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json")
PARQUET_SUFFIXES = (".parquet", ".pq")
PARQUET_BATCH_ROWS = 1024


def read_rows(path: str) -> Iterator[Row]:
    """Yield every row of a data set with its columns untouched, nested ones included.

    Args:
        path: A JSONL or Parquet file, or a directory or Hub name for `datasets.load_dataset`: NAME
            or NAME:SPLIT (default split: train). A local path is never looked up on the Hub.

    Raises:
        DataError: The file is missing, damaged, or of another kind.
        ImportError: The data set needs a package that is not installed.
    """
    file = Path(path)
    if file.is_file() or file.suffix in JSONL_SUFFIXES + PARQUET_SUFFIXES:
        return _read_file(file)
    return _read_dataset(path)


def _read_file(file: Path) -> Iterator[Row]:
    if not file.is_file():
        raise DataError(f"{file}: file not found")
    if file.suffix in JSONL_SUFFIXES:
        return _read_jsonl(file)
    if file.suffix in PARQUET_SUFFIXES:
        return _read_parquet(file)
    raise DataError(
        f"{file}: got a file ending in {file.suffix!r}, expected one of "
        f"{', '.join(JSONL_SUFFIXES + PARQUET_SUFFIXES)}"
    )


def _read_jsonl(file: Path) -> Iterator[Row]:
    # Binary lines end at \n alone: a JSON string may contain other line ends such as U+2028.
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{file}, line {number}"
                yield where, _parse_json_line(line, where, first=number == 1)


def _parse_json_line(line: bytes, where: str, first: bool) -> dict[str, Any]:
    def reject_constant(constant: str) -> NoReturn:
        raise DataError(
            f"{where}: got {constant}, which is not JSON; expected a finite number or null"
        )

    try:
        row = json.loads(
            line.decode("utf-8-sig" if first else "utf-8"), parse_constant=reject_constant
        )
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8: {error}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: not a JSON object on one line: {error}") from error
    if not isinstance(row, dict):
        raise DataError(
            f"{where}: got a JSON {type(row).__name__}, expected one object per line (JSON Lines)"
        )
    return row


def _read_parquet(file: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=PARQUET_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}, row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{file}: not a readable Parquet file after row {number}: {error}"
        ) from error


def _read_dataset(path: str) -> Iterator[Row]:
    name, _, split = path.partition(":")
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"{path}: no such file; reading it as a Hugging Face data set needs the package "
            f"`datasets`: {install_hint('hub')}"
        ) from error
    try:
        rows = datasets.load_dataset(name, split=split or "train")
    except Exception as error:
        raise DataError(
            f"{path}: neither a local file nor a data set that `datasets` can load: "
            f"{type(error).__name__}: {error}"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", dict(row)
