"""What a run reports: every metric's name, unit and meaning; the files of a run directory that hold them.

metrics.jsonl   one row per step, deterministic values alone: two runs of one configuration write the same bytes
timings.jsonl   CPU seconds of the same steps
journal.jsonl   one row per rollout group
tensorboard/    the same metrics as event files, where TensorBoard is installed
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from depo.errors import StateError
from depo.records import Draw, Float32Array, RolloutGroup, Verdict


class Metric(NamedTuple):
    """Unit and meaning of a metric."""

    unit: str
    meaning: str


METRICS: Mapping[str, Metric] = {
    "reward/mean": Metric("reward", "mean of all known rewards of the step's rollouts, trained on or not"),
    "reward/timeouts": Metric("count", "verifications that ran out of time in the step: unknown"),
    "reward/crashes": Metric("count", "verifications whose process died twice in the step: unknown"),
    "reward/errors": Metric("count", "verifications that raised in the step: unknown"),
    "rollout/groups": Metric("groups", "rolled out for training in this step"),
    "rollout/informative_share": Metric("share", "groups whose rewards differ, of all groups generated in the step"),
    "rollout/zero_variance_share": Metric("share", "groups whose known rewards are all alike: no gradient"),
    "rollout/unknown_share": Metric("share", "rewards that are unknown: verifier failure, timeout, masked truncation"),
    "rollout/truncated_share": Metric("share", "responses cut by the token budget"),
    "rollout/response_tokens_mean": Metric("tokens", "mean length of a response"),
    "rollout/sequences": Metric("responses", "generated for training in this step"),
    "rollout/tokens": Metric("tokens", "generated for training in this step"),
    "rollout/sequences_total": Metric("responses", "generated for training since the start"),
    "rollout/tokens_total": Metric("tokens", "generated for training since the start"),
    "rollout/rounds": Metric("count", "rounds of draws that the step took; more than 1 only with backfill"),
    "train/groups": Metric("groups", "in the training batch"),
    "selection/scanned": Metric("prompts", "candidates scored in the step"),
    "selection/rejected": Metric("prompts", "candidates scored and turned down in the step"),
    "selection/reject_share": Metric("share", "rejected / scanned; policy budget: about 1 - 1 / candidates_per_draw by construction"),
    "selection/drawn_explore": Metric("prompts", "drawn at random from the rejected in the step"),
    "selection/drawn_reprobe": Metric("prompts", "drawn in the step because their last label was too old"),
    "selection/drawn_fill": Metric("prompts", "drawn in the step although rejected, because too few passed"),
    "selection/starved_total": Metric("count", "batches since the start that had to be filled up with rejected prompts"),
    "selection/sequences_saved_total": Metric(
        "responses", "what uniform sampling would have generated for as many informative groups, less what was; estimated, needs explore_share > 0"
    ),
    "belief/concentration": Metric("rollouts", "what the text prediction counts for in a prompt's belief"),
    "calibration/brier": Metric("probability^2", "mean squared error of P(informative), groups weighted by 1 / admission"),
    "calibration/ece": Metric("probability", "expected calibration error of P(informative), likewise weighted"),
    "calibration/auroc": Metric("probability", "an informative group was given a higher P(informative) than an uninformative one"),
    "calibration/mae": Metric("pass rate", "mean absolute error of the predicted reward against the group's pass rate"),
    "calibration/false_reject_rate": Metric("share", "informative groups among those that the policy alone would have rejected"),
    "calibration/lost_share": Metric("share", "rejected groups among the informative ones"),
    "calibration/unfiltered_informative_share": Metric("share", "informative groups, weighted by 1 / admission: what no filter would have seen"),
    "estimator/loss": Metric("nats", "total loss of the estimator's update"),
    "estimator/score_loss": Metric("nats", "cross-entropy of the predicted reward"),
    "estimator/distill_loss": Metric("nats", "cross-entropy of the predicted log-probability target"),
    "estimator/ranking_loss": Metric("logits", "pairwise ranking loss"),
    "estimator/grad_norm": Metric("norm", "gradient norm before clipping"),
    "estimator/overflow_share": Metric("share", "prompts longer than the estimator reads, since its last update"),
    "estimator/skipped_steps": Metric("count", "optimizer steps left out because loss or gradient was not finite"),
    "policy/loss": Metric("loss", "policy-gradient loss over the training batch"),
    "policy/grad_norm": Metric("norm", "gradient norm before clipping"),
    "policy/clip_share": Metric("share", "tokens whose gradient was clipped away"),
    "policy/ratio_mean": Metric("ratio", "mean importance ratio policy / rollout"),
    "policy/kl": Metric("nats", "k3 estimate of KL(rollout policy || policy) per token"),
    "policy/reference_kl": Metric("nats", "k3 estimate of KL(policy || reference policy) per token"),
    "policy/logprob_mismatch": Metric("nats", "mean |rollout - policy| log-probability before the first optimizer step"),
    "policy/entropy": Metric("nats", "mean entropy of the next-token distribution over trained tokens"),
    "policy/lr": Metric("rate", "learning rate of the step"),
    "policy/updated": Metric("0 or 1", "whether the optimizer moved"),
    "policy/trained_sequences": Metric("responses", "that were run forward and backward: all but those whose advantage and KL term are 0"),
    "eval/accuracy": Metric("share", "mean held-out reward, Avg@samples"),
    "probe/informative_share": Metric("share", "informative groups among prompts drawn without any filter"),
    "probe/auroc": Metric("probability", "as calibration/auroc, on the unfiltered probes"),
    "probe/false_reject_rate": Metric("share", "informative groups among the probes that the policy would have rejected"),
    "probe/lost_share": Metric("share", "rejected groups among the informative probes"),
    "probe/reject_share": Metric("share", "probes that the policy would have rejected"),
    "probe/mae": Metric("pass rate", "mean absolute error of the predicted reward on the probes"),
}
"""Every metric of metrics.jsonl, but for `eval/accuracy/BAND`, one for each difficulty band of the held-out prompts."""

TIMINGS: Mapping[str, str] = {
    "time/select": "drawing prompts, predictions not counted",
    "time/predict": "scoring candidates with the estimator, those of the probes included",
    "time/rollout": "generating responses",
    "time/reward": "judging responses in this process",
    "time/observe": "recording rewards, drawing replay targets, calibration",
    "time/update": "the policy's update",
    "time/estimator_update": "the estimator's update",
    "time/evaluate": "held-out evaluation and probes",
    "time/step": "the whole step",
}
"""Every value of timings.jsonl: CPU seconds of this process, all threads."""


def describe(name: str) -> Metric:
    """Return unit and meaning of a metric.

    Raises:
        KeyError: No metric has this name.
    """
    band = name.removeprefix("eval/accuracy/")
    return Metric("share", f"eval/accuracy on the prompts of band {band}") if band not in ("", name) else METRICS[name]


class Stopwatch:
    """Adds up CPU seconds by name: `with stopwatch("time/rollout"): ...`. A name may be entered many times.

    Inside an outermost block, such as a whole step, a part does not count what is booked under the parts within it.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._within: list[float] = []
        """For each open block the seconds of the blocks that ended within it."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the CPU seconds of the block to `name`, also when it raises."""
        start = time.process_time()
        self._within.append(0.0)
        try:
            yield
        finally:
            elapsed = time.process_time() - start
            booked_within = self._within.pop()
            own = elapsed
            if self._within:
                own -= booked_within
                self._within[-1] += elapsed
            self._seconds[name] = self._seconds.get(name, 0.0) + own

    def take(self) -> dict[str, float]:
        """Return the sums since the last call and start again from zero."""
        seconds, self._seconds = self._seconds, {}
        return seconds


class StepRows:
    """A JSON-lines file whose rows carry a `step`, appended to and cut back on resume.

    Args:
        path: The file.
        resume_step: Rows of later steps are cut off, and so is a torn last row; None starts with an empty file.

    Raises:
        StateError: A row other than the last is no JSON object with a step.
    """

    def __init__(self, path: Path, *, resume_step: int | None) -> None:
        kept = b"" if resume_step is None or not path.exists() else b"".join(_rows_up_to(path, resume_step))
        draft = path.with_name(f".{path.name}")
        draft.write_bytes(kept)
        os.replace(draft, path)
        self._file = path.open("a", encoding="utf-8")

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row, keys in order, NaN and infinities as null; it is with the operating system when this returns."""
        self._file.write(json.dumps({key: _plain(row[key]) for key in sorted(row)}, allow_nan=False) + "\n")
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
        self._events = _event_writer(run_directory / "tensorboard", 0 if resume_step is None else resume_step + 1)

    def write(self, step: int, metrics: Mapping[str, float], timings: Mapping[str, float]) -> None:
        """Write the rows of one step [>= 0]; a metric that does not apply to the step is left out or NaN."""
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

    def write(self, step: int, draw: Draw, group: RolloutGroup, rewards_G: Float32Array, verdict: Verdict) -> None:
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
            "rewards": [float(reward) for reward in rewards_G],
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
    """Yield each complete line with the row it holds; a line without its end was torn by a crash."""
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
                raise StateError(f"{path}, line {number}: got {line[:80]!r}, expected a JSON object with a step")
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
    """Return TensorBoard's writer, which hides what earlier attempts logged from purge_step on; None without torch and TensorBoard."""
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("tensorboard")):
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(directory), purge_step=purge_step)
