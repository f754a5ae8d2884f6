"""The journal as columns: one entry per rolled-out group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depo.runs.run_records import Float64Array, Row
from depo.types.records import BoolArray, DrawKind


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalColumns:
    """What was believed of each rolled-out group, and what came of it; all [N], unknown = NaN.

    Attributes:
        steps: float64, training step.
        kinds: str, why the prompt was drawn.
        predicted_rewards: float64 in (0, 1), the estimator's pass rate.
        pass_rates: float64 in [0, 1], share of the known rewards that are successes.
        p_informative: float64 in [0, 1].
        admissions: float64 in (0, 1].
        informative: bool.
        full: bool, False for a probe, of fewer rollouts than a group.
    """

    steps: Float64Array
    kinds: NDArray[np.str_]
    predicted_rewards: Float64Array
    pass_rates: Float64Array
    p_informative: Float64Array
    admissions: Float64Array
    informative: BoolArray
    full: BoolArray

    @classmethod
    def of(cls, journal: Sequence[Row], success_threshold: float) -> JournalColumns:
        """Return the columns of journal rows.

        A reward at or above `success_threshold` is a success.
        """
        sizes = np.array([len(row["rewards"]) for row in journal], np.int64)
        return cls(
            steps=numbers(journal, "step"),
            kinds=np.array([row["kind"] for row in journal], np.str_),
            predicted_rewards=numbers(journal, "predicted_reward"),
            pass_rates=np.array(
                [_pass_rate(row["rewards"], success_threshold) for row in journal], np.float64
            ),
            p_informative=numbers(journal, "p_informative"),
            admissions=numbers(journal, "admission"),
            informative=np.array([row["informative"] for row in journal], bool),
            full=sizes == sizes.max(initial=0),
        )

    @property
    def last_warmup_step(self) -> int:
        """The last step with a draw of the warm-up; 0 without one."""
        return int(self.steps[self.kinds == DrawKind.WARMUP].max(initial=0))


def numbers(rows: Sequence[Row], name: str) -> Float64Array:
    """Return one column, float64 [N], null = NaN."""
    return np.array([row[name] for row in rows], np.float64)


def mean_by_step(
    steps_N: Float64Array, values_N: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Return the distinct steps and the mean value at each, both float64 [K]."""
    steps_K, group_N = np.unique(steps_N, return_inverse=True)
    return steps_K, np.bincount(group_N, values_N) / np.bincount(group_N)


def _pass_rate(rewards: Sequence[float | None], success_threshold: float) -> float:
    known = np.array(
        [reward for reward in rewards if reward is not None], np.float32
    )  # the type that rewards are compared in
    return float((known >= np.float32(success_threshold)).mean()) if known.size else float("nan")
