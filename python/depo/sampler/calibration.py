"""Measure predicted pass rates and P(informative) against outcomes (numpy only).

Weights are 1 / admission throughout: the observed are a biased sample of the pool, and the weights
undo it (Horvitz-Thompson). A metric that is not defined, such as the AUROC of a single class, is
NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from depo.types.errors import StateError

Float64Array = NDArray[np.float64]
STATE_FORMAT = 1


class Share(NamedTuple):
    """A weighted share in [0, 1] and its standard error (that of a ratio of weighted sums).

    Both NaN over nothing.
    """

    value: float
    standard_error: float


class ReliabilityCurve(NamedTuple):
    """Predicted against observed frequency, one entry per non-empty bin, ascending.

    Each float64 [K], K <= bins.
    """

    predicted: Float64Array
    observed: Float64Array
    standard_errors: Float64Array
    """Of `observed`."""
    mass: Float64Array
    """Share of the total weight; sums to 1."""


def auroc(values: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the area under the ROC curve.

    The probability that a random positive has a higher value than a random negative; ties count
    half.

    Args:
        values: [N] scores.
        labels: [N] bool.
        weights: [N] > 0; default 1.

    Raises:
        ValueError: The lengths differ.
    """
    values_N, labels_N, weights_N = _columns(values=values, labels=labels, weights=weights)
    _, group_N = np.unique(values_N, return_inverse=True)
    positive_K = np.bincount(group_N, weights_N * labels_N)
    negative_K = np.bincount(group_N, weights_N * (1 - labels_N))
    pairs = positive_K.sum() * negative_K.sum()
    below_K = np.cumsum(negative_K) - negative_K
    return (
        float((positive_K * (below_K + negative_K / 2)).sum() / pairs)
        if pairs > 0
        else float("nan")
    )


def brier(probabilities: ArrayLike, outcomes: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the weighted mean squared error of [N] probabilities against [N] outcomes in [0, 1].

    Raises:
        ValueError: The lengths differ.
    """
    probabilities_N, outcomes_N, weights_N = _columns(
        probabilities=probabilities, outcomes=outcomes, weights=weights
    )
    return share((probabilities_N - outcomes_N) ** 2, weights_N).value


def reliability_curve(
    probabilities: ArrayLike,
    outcomes: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    bins: int = 10,
) -> ReliabilityCurve:
    """Compare [N] probabilities with [N] outcomes in bins of equal weight.

    Equal probabilities share a bin, so the curve does not depend on the order of the observations.

    Raises:
        ValueError: The lengths differ.
    """
    probabilities_N, outcomes_N, weights_N = _columns(
        probabilities=probabilities, outcomes=outcomes, weights=weights
    )
    _, group_N = np.unique(probabilities_N, return_inverse=True)
    mass_K = np.bincount(group_N, weights_N)
    middle_K = (np.cumsum(mass_K) - mass_K / 2) / max(mass_K.sum(), np.finfo(float).tiny)
    bin_N = np.minimum((middle_K * bins).astype(int), bins - 1)[group_N]
    members = [bin_N == index for index in np.unique(bin_N)]
    observed = [share(outcomes_N[member], weights_N[member]) for member in members]
    return ReliabilityCurve(
        predicted=np.array(
            [share(probabilities_N[member], weights_N[member]).value for member in members]
        ),
        observed=np.array([entry.value for entry in observed]),
        standard_errors=np.array([entry.standard_error for entry in observed]),
        mass=np.array([weights_N[member].sum() for member in members]) / weights_N.sum(),
    )


def expected_calibration_error(
    probabilities: ArrayLike,
    outcomes: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    bins: int = 10,
) -> float:
    """Return the mean distance of the `reliability_curve` from the diagonal, weighted by mass.

    Raises:
        ValueError: The lengths differ.
    """
    curve = reliability_curve(probabilities, outcomes, weights, bins=bins)
    return (
        float((curve.mass * np.abs(curve.predicted - curve.observed)).sum())
        if curve.mass.size
        else float("nan")
    )


def false_reject_rate(
    informative: ArrayLike, rejected: ArrayLike, weights: ArrayLike | None = None
) -> Share:
    """Return which weighted share of the rejected was informative, both bool [N].

    Raises:
        ValueError: The lengths differ.
    """
    informative_N, rejected_N, weights_N = _columns(
        informative=informative, rejected=rejected, weights=weights
    )
    return share(informative_N, weights_N * rejected_N)


def lost_share(
    informative: ArrayLike, rejected: ArrayLike, weights: ArrayLike | None = None
) -> Share:
    """Return which weighted share of the informative was rejected, both bool [N].

    Raises:
        ValueError: The lengths differ.
    """
    informative_N, rejected_N, weights_N = _columns(
        informative=informative, rejected=rejected, weights=weights
    )
    return share(rejected_N, weights_N * informative_N)


def share(values_N: Float64Array, weights_N: Float64Array) -> Share:
    """Return the weighted mean of [N] values and its linearised standard error."""
    total = weights_N.sum()
    if not total > 0:
        return Share(float("nan"), float("nan"))
    mean = float((weights_N * values_N).sum() / total)
    return Share(mean, float(np.sqrt((weights_N**2 * (values_N - mean) ** 2).sum()) / total))


class CalibrationWindow:
    """The newest observations, and the metrics over them."""

    COLUMNS = (
        "p_informative",
        "predicted_reward",
        "admission",
        "informative",
        "pass_rate",
        "rejected_by_policy",
    )

    def __init__(self, capacity: int = 1024) -> None:
        """Remember the `capacity` newest observations."""
        if capacity < 1:
            raise ValueError(f"capacity: got {capacity}, expected at least 1")
        self._rows = np.empty((capacity, len(self.COLUMNS)))
        self._total = 0

    def __len__(self) -> int:
        """Return how many observations are remembered."""
        return min(self._total, len(self._rows))

    def add(
        self,
        p_informative: ArrayLike,
        predicted_reward: ArrayLike,
        admission: ArrayLike,
        informative: ArrayLike,
        pass_rate: ArrayLike,
        rejected_by_policy: ArrayLike,
    ) -> None:
        """Record observed groups; each argument is a number or [B].

        Args:
            p_informative: Probability of being informative that was predicted at the draw, in [0,
                1]; NaN = unknown.
            predicted_reward: Predicted pass rate at the draw, in (0, 1); NaN = unknown.
            admission: Probability with which the prompt was drawn, in (0, 1].
            informative: Whether the group's rewards differed.
            pass_rate: Observed share of successes, in [0, 1].
            rejected_by_policy: Whether the selection policy alone would have rejected the prompt.

        Raises:
            ValueError: The lengths differ, or an admission lies outside (0, 1].
        """
        given = (
            p_informative,
            predicted_reward,
            admission,
            informative,
            pass_rate,
            rejected_by_policy,
        )
        columns = _columns(**dict(zip(self.COLUMNS, map(np.atleast_1d, given), strict=True)))
        admission_B = columns[2]
        if not ((admission_B > 0) & (admission_B <= 1)).all():
            raise ValueError(
                f"admission: got values from {admission_B.min()} to {admission_B.max()}, expected "
                f"them above 0 and at most 1"
            )
        rows = np.column_stack(columns)
        positions = (self._total + np.arange(len(rows))) % len(self._rows)
        kept = slice(max(0, len(rows) - len(self._rows)), None)
        self._rows[positions[kept]] = rows[kept]
        self._total += len(rows)

    @property
    def rejected(self) -> int:
        """How many of the remembered the policy alone would have rejected."""
        return int(self._rows[: len(self), self.COLUMNS.index("rejected_by_policy")].sum())

    def metrics(self, *, of_admitted: bool = False) -> dict[str, float]:
        """Return metrics named `calibration/...`, NaN where undefined.

        Args:
            of_admitted: Whether to leave out the rejected, of whom too few are known: each weighs
                so much that they drown the rest. Then the last three are NaN.

        Returns:
            brier, ece and auroc of p_informative; mae of predicted_reward against the observed pass
            rate; false_reject_rate and lost_share; unfiltered_informative_share, what uniform
            sampling would find.
        """
        rows = self._rows[: len(self)]
        rows = rows[rows[:, self.COLUMNS.index("rejected_by_policy")] == 0] if of_admitted else rows
        p_informative_N, predicted_N, admission_N, informative_N, pass_rate_N, rejected_N = rows.T
        weights_N = 1 / admission_N
        known_N = np.isfinite(p_informative_N)
        judged = (p_informative_N[known_N], informative_N[known_N], weights_N[known_N])
        errors_N = np.abs(predicted_N - pass_rate_N)
        measured_N = np.isfinite(errors_N)
        calibration = {
            "calibration/brier": brier(*judged),
            "calibration/ece": expected_calibration_error(*judged),
            "calibration/auroc": auroc(*judged),
            "calibration/mae": share(errors_N[measured_N], weights_N[measured_N]).value,
        }
        about_rejected = {
            "calibration/false_reject_rate": false_reject_rate(
                informative_N, rejected_N, weights_N
            ).value,
            "calibration/lost_share": lost_share(informative_N, rejected_N, weights_N).value,
            "calibration/unfiltered_informative_share": share(informative_N, weights_N).value,
        }
        return calibration | (
            dict.fromkeys(about_rejected, float("nan")) if of_admitted else about_rejected
        )

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the observations."""
        return {
            "format": STATE_FORMAT,
            "capacity": len(self._rows),
            "total": self._total,
            "rows": self._rows[: len(self)].copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            StateError: Another format or capacity, or entries that do not fit together; nothing has
                been changed.
        """
        expected = {"format": STATE_FORMAT, "capacity": len(self._rows)}
        if set(state) != {*expected, "total", "rows"}:
            raise StateError(
                f"calibration window: got entries {sorted(state)}, expected "
                f"{sorted([*expected, 'total', 'rows'])}"
            )
        for name, value in expected.items():
            if state[name] != value:
                raise StateError(
                    f"calibration window, {name}: got {state[name]!r}, expected {value}"
                )
        rows = np.asarray(state["rows"], np.float64)
        shape = (min(int(state["total"]), len(self._rows)), len(self.COLUMNS))
        if rows.shape != shape:
            raise StateError(f"calibration window, rows: got shape {rows.shape}, expected {shape}")
        self._rows[: len(rows)] = rows
        self._total = int(state["total"])


def _columns(**columns: ArrayLike | None) -> tuple[Float64Array, ...]:
    """Return the named columns as float64 [N] of equal length, a missing one filled with 1."""
    arrays = {
        name: np.asarray(column, np.float64)
        for name, column in columns.items()
        if column is not None
    }
    first, reference = next(iter(arrays.items()))
    for name, array in arrays.items():
        if array.ndim != 1 or array.shape != reference.shape:
            raise ValueError(
                f"{name}: got shape {array.shape}, expected one dimension, as long as {first} "
                f"{reference.shape}"
            )
    return tuple(arrays.get(name, np.ones(reference.shape)) for name in columns)
