"""A pool's texts and ids taken over from columns, and texts gathered from it.

Beside NumPy, pyarrow, Hugging Face datasets and objects of Python.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import datasets
import numpy as np
import pyarrow as pa
from choices import SIZES
from numpy.typing import NDArray
from pools import resident_bytes
from rounds import OURS, Operation

from depo import Prompt, PromptSampler, PromptTable

BATCH = 1024
OBJECTS_LIMIT = (
    1_000_000  # a dict of ten million strings beside the texts does not fit into a small machine
)
PATTERN = (
    b"What is 00000000 times 17? Explain your reasoning step by step, and put the final answer in "
    b"a box. " * 3
)
DIGITS = slice(8, 16)  # of PATTERN
ID_BYTES = 8


def digits(size: int) -> NDArray[np.uint8]:
    """The numbers 0 .. size - 1 in eight decimal digits, uint8 [size, 8]."""
    numbers, written = np.arange(size, dtype=np.int32), np.empty((size, ID_BYTES), np.uint8)
    for place in range(ID_BYTES):
        written[:, place] = numbers // 10 ** (ID_BYTES - 1 - place) % 10 + ord("0")
    return written


def strings(rows: NDArray[np.uint8]) -> pa.Array:
    offsets = np.arange(len(rows) + 1, dtype=np.int64) * rows.shape[1]
    return pa.LargeStringArray.from_buffers(len(rows), pa.py_buffer(offsets), pa.py_buffer(rows))


def buffers(rows: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    _, offsets, utf8 = rows["prompt"].chunk(0).buffers()
    return np.frombuffer(offsets, np.int64), np.frombuffer(utf8, np.uint8)


def pool(size: int) -> pa.Table:
    numbers = digits(size)
    texts = np.tile(np.frombuffer(PATTERN, np.uint8), (size, 1))
    texts[:, DIGITS] = numbers
    return pa.table({"prompt": strings(texts), "id": strings(numbers)})


def table_of(rows: pa.Table) -> PromptTable:
    return PromptTable.from_arrow(rows, id="id")


def objects_of(rows: pa.Table) -> tuple[Prompt, ...]:
    return tuple(
        Prompt(text=text, id=name)
        for text, name in zip(rows["prompt"].to_pylist(), rows["id"].to_pylist(), strict=True)
    )


def copy_and_dict(rows: pa.Table, names: list[str]) -> Callable[[], object]:
    """What an expert does with NumPy.

    One copy of the bytes, and a dict that finds rows by ids, which are strings already.
    """
    _, utf8 = buffers(rows)
    return lambda: (utf8.copy(), dict(zip(names, range(len(names)), strict=True)))


def bytes_per_prompt(objects: bool) -> float:
    """Memory that a pool and its sampler take beside the Arrow table, in a process of its own.

    Big arrays leave no free memory behind them there.
    """
    command = [sys.executable, __file__, *(["--objects"] if objects else [])]
    return float(
        subprocess.check_output(command, env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"})
    )


def print_bytes_per_prompt(objects: bool) -> None:
    def build(rows: pa.Table) -> PromptSampler:
        return PromptSampler(objects_of(rows) if objects else table_of(rows))

    build(pool(1))  # code that is loaded when it is first needed
    rows = pool(OBJECTS_LIMIT)
    before = resident_bytes()
    sampler = build(rows)
    print((resident_bytes() - before) / len(sampler.prompts))


ADOPTED = Operation(
    "Take over a pool of prompts",
    f"Texts of {len(PATTERN)} bytes in Arrow, with ids of {ID_BYTES}. depo: "
    f"`PromptSampler(PromptTable.from_arrow(rows, id=...))`, texts checked to be UTF-8, "
    "ids hashed and checked to be distinct, beliefs set up. The index alone hashes the ids. numpy "
    "copies the texts and makes a dict of ids, which are strings "
    "of Python already.",
    {"numpy copy + dict": "1.7x from 1M"},
)
GATHERED = Operation(
    f"Gather {BATCH} texts",
    "`PromptTable.texts`, other random rows at each call, to strings of Python.",
    {"numpy slices, decoded": "2x", "datasets": "25x"},
)


def adopting(rows: pa.Table) -> dict[str, Callable[[], object]]:
    table = table_of(rows)
    cases: dict[str, Callable[[], object]] = {
        OURS: lambda: PromptSampler(table_of(rows)),
        "of which the index": table.pool_index,
        "depo, ids by content": lambda: PromptSampler(PromptTable.from_arrow(rows)),
    }
    if len(rows) <= OBJECTS_LIMIT:
        cases["numpy copy + dict"] = copy_and_dict(rows, rows["id"].to_pylist())
        cases["depo, from Prompt objects"] = lambda: PromptSampler(objects_of(rows))
    return cases


def gathering(rows: pa.Table) -> dict[str, Callable[[], object]]:
    """Each case reads other rows at each call: what was read lately lies in a cache."""
    table, dataset = table_of(rows), datasets.Dataset(rows)
    rng = np.random.default_rng(0)

    def places() -> NDArray[np.int64]:
        return rng.integers(0, len(rows), BATCH)

    bounds, utf8 = buffers(rows)
    return {
        OURS: lambda: table.texts(places()),
        "numpy slices, decoded": lambda: [
            utf8[bounds[place] : bounds[place + 1]].tobytes().decode()
            for place in places().tolist()
        ],
        "pyarrow take": lambda: rows["prompt"].take(places()).to_pylist(),
        "datasets": lambda: dataset[places()]["prompt"],
    }


def measure(rounds: int) -> list[Operation]:
    for size, count in SIZES.items():
        rows = pool(count)
        ADOPTED.time(size, adopting(rows), rounds)
        GATHERED.time(size, gathering(rows), rounds)
    return [ADOPTED, GATHERED]


if __name__ == "__main__":
    print_bytes_per_prompt(objects="--objects" in sys.argv)
