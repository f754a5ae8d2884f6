"""The files of a run directory that hold its metrics.

What each is called and means is in `metric_names`.

metrics.jsonl   one row per step, deterministic values alone: two runs of one configuration write
the same bytes timings.jsonl   CPU seconds of the same steps journal.jsonl   one row per rollout
group tensorboard/    the same metrics as event files, where TensorBoard is installed
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from depo.state.whole_files import write_whole
from depo.types.errors import StateError
from depo.types.records import Draw, Float32Array, RolloutGroup, Verdict


class StepRows:
    """A JSON-lines file whose rows carry a `step`, appended to and cut back on resume.

    Args:
        path: The file.
        resume_step: Rows of later steps are cut off, and so is a torn last row; None starts with an
            empty file.

    Raises:
        StateError: A row other than the last is no JSON object with a step.
    """

    def __init__(self, path: Path, *, resume_step: int | None) -> None:
        continues = resume_step is not None and path.exists()
        write_whole(path, b"".join(_rows_up_to(path, resume_step or 0)) if continues else b"")
        self._file = path.open("a", encoding="utf-8")

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row, keys in order, NaN and infinities as null.

        It is with the operating system when this returns.
        """
        self._file.write(
            json.dumps({key: _plain(row[key]) for key in sorted(row)}, allow_nan=False) + "\n"
        )
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class MetricsLog:
    """metrics.jsonl, timings.jsonl and, where TensorBoard is installed, its event files.

    Args:
        run_directory: Where the files live; made if missing.
        resume_step: Step of the checkpoint that the run continues from; None for a fresh run.

    Raises:
        StateError: A file to be continued is damaged.
    """

    def __init__(self, run_directory: Path, *, resume_step: int | None) -> None:
        run_directory.mkdir(parents=True, exist_ok=True)
        self._metrics = StepRows(run_directory / "metrics.jsonl", resume_step=resume_step)
        self._timings = StepRows(run_directory / "timings.jsonl", resume_step=resume_step)
        self._events = _event_writer(
            run_directory / "tensorboard", 0 if resume_step is None else resume_step + 1
        )

    def write(self, step: int, metrics: Mapping[str, float], timings: Mapping[str, float]) -> None:
        """Write the rows of one step [>= 0].

        A metric that does not apply to the step is left out or NaN.
        """
        self._metrics.append({**metrics, "step": step})
        self._timings.append({**timings, "step": step})
        if self._events is not None:
            for name, value in {**metrics, **timings}.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close all files."""
        self._metrics.close()
        self._timings.close()
        if self._events is not None:
            self._events.close()


class Journal:
    """journal.jsonl: what was drawn, why, and what came of it, one row per rollout group.

    Args:
        run_directory: Where the file lives; made if missing.
        resume_step: As for `MetricsLog`.

    Raises:
        StateError: The file to be continued is damaged.
    """

    def __init__(self, run_directory: Path, *, resume_step: int | None) -> None:
        run_directory.mkdir(parents=True, exist_ok=True)
        self._rows = StepRows(run_directory / "journal.jsonl", resume_step=resume_step)

    def write(
        self, step: int, draw: Draw, group: RolloutGroup, rewards_G: Float32Array, verdict: Verdict
    ) -> None:
        """Write one group of training step `step`; rewards float32 [G], NaN = unknown."""
        row = {
            "step": step,
            "draw_id": draw.draw_id,
            "prompt_id": draw.prompt.id,
            "source": draw.prompt.source,
            "kind": draw.kind,
            "predicted_reward": draw.predicted_reward,
            "p_informative": draw.p_informative,
            "admission": draw.admission,
            "rewards": [float(reward) for reward in rewards_G[: draw.n_rollouts]],
            "informative": bool(verdict.informative),
            "status": verdict.status,
            "tokens": group.n_tokens,
            "policy_version": group.policy_version,
        }
        self._rows.append(row)

    def close(self) -> None:
        """Close the file."""
        self._rows.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON-lines file of a run; a torn last row is left out.

    Raises:
        StateError: A row other than the last is damaged.
        FileNotFoundError: No such file.
    """
    return [row for _, row in _rows(path)]


def _rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield each complete line with the row it holds.

    A line without its end was torn by a crash.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
                valid = isinstance(row["step"], int)
            except (ValueError, TypeError, KeyError):
                valid = False
            if not valid:
                raise StateError(
                    f"{path}, line {number}: got {line[:80]!r}, expected a JSON object with a step"
                )
            yield line, row


def _rows_up_to(path: Path, step: int) -> Iterator[bytes]:
    return (line for line, row in _rows(path) if row["step"] <= step)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, (str, bool, int)):
        return value
    return float(value) if math.isfinite(value) else None


def _event_writer(directory: Path, purge_step: int) -> Any:
    """Return TensorBoard's writer, which hides what earlier attempts logged from purge_step on.

    None without torch and TensorBoard.
    """
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("tensorboard")):
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(directory), purge_step=purge_step)
