"""A run directory read back: what reports, comparisons and replays are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depo.runs.metric_files import read_rows
from depo.types.errors import DataError

Row = Mapping[str, Any]
Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RunRecords:
    """Rows of one run, in step order.

    Attributes:
        directory: The run directory.
        metrics: Deterministic metrics, one row per step done; row 0 is the start.
        timings: CPU seconds per part, one row per step.
        journal: One row per rolled-out group.
        probes: One row per unfiltered probe.
    """

    directory: Path
    metrics: list[Row]
    timings: list[Row]
    journal: list[Row]
    probes: list[Row]

    @classmethod
    def read(cls, directory: Path) -> RunRecords:
        """Read a run directory; files that the run has not written are empty.

        Raises:
            DataError: The directory holds no metrics.jsonl.
            StateError: A file is damaged.
        """
        if not (directory / "metrics.jsonl").is_file():
            raise DataError(
                f"{directory}: got no metrics.jsonl, expected the directory of a depo-train run"
            )
        return cls(
            directory,
            *(
                _rows_if_any(directory / f"{name}.jsonl")
                for name in ("metrics", "timings", "journal", "probes")
            ),
        )

    def series(self, name: str) -> tuple[Float64Array, Float64Array]:
        """Return steps and values of one metric, where it was written and is a number.

        Both float64 [K].
        """
        pairs = [(row["step"], row[name]) for row in self.metrics if row.get(name) is not None]
        steps, values = np.array(pairs, np.float64).reshape(-1, 2).T
        return steps, values

    def total_cpu_seconds(self, name: str) -> float:
        """Return the CPU seconds booked under one timing name over the whole run."""
        return float(sum(row.get(name) or 0.0 for row in self.timings))


def _rows_if_any(path: Path) -> list[Row]:
    return [*read_rows(path)] if path.is_file() else []
