"""The same start, data and seeds under several selection methods.

The runs, and the numbers of comparison.json.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from depo.config import TrainConfig, load_config
from depo.evaluation.evaluate import probe_metrics
from depo.runs.directory import require_same_run, store_config
from depo.runs.report import write_report
from depo.runs.run_records import RunRecords
from depo.training.trainer import Trainer

METHODS: Mapping[str, Sequence[str]] = {
    "grpo": ("--selection.preset", "uniform"),
    "dapo": ("--selection.preset", "dapo"),
    "depo_paper": ("--selection.preset", "depo_paper", "--selection.warmup_steps", "15"),
    "depo": ("--selection.preset", "depo"),
}
"""Method -> overrides.

depo_paper is the published window with the estimator settings of the configuration: the published
optimizer does not get going within a short run."""

ESTIMATOR_METHOD = "depo_paper"
"""Whose probes make the `estimator` entry: the method that selects by the estimator alone."""

SETTLED_STEP = 20
"""Steps up to this one are warm-up: zero-variance shares and probes count from here on."""

LAST_EVALUATIONS = 3
PROBE_NAMES = ("auroc", "false_reject_rate", "reject_share", "lost_share", "informative_share")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is compared: every method with every seed.

    Attributes:
        config: Configuration file that all runs share.
        overrides: Command-line overrides that all runs share; they win over a method's own.
        methods: Method -> its overrides.
        seeds: Seeds; runs of different methods with the same seed are paired.
        directory: Where the run directories and the results go.
    """

    config: Path
    overrides: Sequence[str]
    methods: Mapping[str, Sequence[str]]
    seeds: Sequence[int]
    directory: Path

    def run_directory(self, method: str, seed: int) -> Path:
        """Return the directory of one run."""
        return self.directory / f"{method}-seed{seed}"

    def run_config(self, method: str, seed: int) -> TrainConfig:
        """Return the configuration of one run."""
        placing = [
            "--run.seed",
            str(seed),
            "--run.directory",
            str(self.directory),
            "--run.name",
            self.run_directory(method, seed).name,
        ]
        return load_config(self.config, [*self.methods[method], *self.overrides, *placing])

    def train(self, jobs: int = 1) -> None:
        """Train what is not trained yet, `jobs` runs at a time.

        An interrupted comparison goes on where it was.
        """
        runs = [(method, seed) for method in self.methods for seed in self.seeds]
        if jobs == 1:
            for method, seed in runs:
                self._train_one(method, seed)
            return
        self._train_one(*runs[0])  # fills the cache of the warm start, which the others share
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                for finished in [
                    pool.submit(self._train_one, method, seed) for method, seed in runs[1:]
                ]:
                    finished.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def records(self) -> dict[str, list[RunRecords]]:
        """Return the runs' records by method, in the order of seeds."""
        return {
            method: [RunRecords.read(self.run_directory(method, seed)) for seed in self.seeds]
            for method in self.methods
        }

    def _train_one(self, method: str, seed: int) -> None:
        directory = self.run_directory(method, seed)
        config = self.run_config(method, seed)
        require_same_run(config, directory)
        print(f"{method}, seed {seed}: {directory}", flush=True)
        trainer = Trainer(config, directory)
        store_config(config, directory)
        result = trainer.run()
        write_report(directory)
        if result.status == "stopped":
            raise KeyboardInterrupt(result.message)


def summarize(records: Mapping[str, Sequence[RunRecords]], seeds: Sequence[int]) -> dict[str, Any]:
    """Return the content of comparison.json; what is not defined is None.

    Returns:
        `methods`: per method the means over seeds of frontier_accuracy (mean of the last
            evaluations, of all held-out prompts where no band is called
        frontier), start_accuracy, steps done, sequences, tokens, zero_variance_share and
        cpu_seconds (of training steps), the standard deviation of frontier_accuracy over seeds, and
        the seeds. `estimator`: auroc, false_reject_rate, reject_share, lost_share and
        informative_share over unfiltered probes. `settled_step`: shares and probes count the steps
        after this one. `last_evaluations`: how many evaluations make an accuracy.
    """
    last_step = min(run.metrics[-1]["step"] for runs in records.values() for run in runs)
    settled_step = SETTLED_STEP if last_step > SETTLED_STEP else 0
    summary: dict[str, Any] = {
        "methods": {
            method: {**_means([_one_run(run, settled_step) for run in runs]), "seeds": list(seeds)}
            for method, runs in records.items()
        },
        "settled_step": settled_step,
        "last_evaluations": LAST_EVALUATIONS,
    }
    probes = [
        dict(row)
        for run in records.get(ESTIMATOR_METHOD, ())
        for row in run.probes
        if row["step"] > settled_step
    ]
    if probes:
        measured = probe_metrics(probes)
        summary["estimator"] = {name: _defined(measured[f"probe/{name}"]) for name in PROBE_NAMES}
    return summary


def _means(each: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    means = {name: _defined(float(np.mean([values[name] for values in each]))) for name in each[0]}
    return {
        **means,
        "frontier_accuracy_sd": _defined(
            float(np.std([values["frontier_accuracy"] for values in each], ddof=1))
        )
        if len(each) > 1
        else None,
    }


def _one_run(run: RunRecords, settled_step: int) -> dict[str, float]:
    accuracies = next(
        values
        for name in ("eval/accuracy/frontier", "eval/accuracy")
        if (values := run.series(name)[1]).size or name == "eval/accuracy"
    )
    steps, zero_variance = run.series("rollout/zero_variance_share")
    groups = run.series("rollout/groups")[1]
    settled = steps > settled_step
    return {
        "frontier_accuracy": float(accuracies[1:][-LAST_EVALUATIONS:].mean())
        if accuracies.size > 1
        else math.nan,
        "start_accuracy": float(accuracies[0]) if accuracies.size else math.nan,
        "steps": float(run.metrics[-1]["step"]),
        "sequences": float(run.series("rollout/sequences_total")[1][-1]),
        "tokens": float(run.series("rollout/tokens_total")[1][-1]),
        "zero_variance_share": float(np.average(zero_variance[settled], weights=groups[settled])),
        "cpu_seconds": run.total_cpu_seconds("time/step"),
    }


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
