"""What a replay is judged by.

Records count by the log's weights, 1 / admission of the policy that recorded them; in a log of
epochs all weights are 1. The first `warm` ticks are not scored, but for `early_informative_share`
and `max_age`. What is not defined, such as the calibration of nothing, is NaN. A cheap probe costs
its rollouts, trains nobody and counts as a look at its prompt. Whether it was right to believe so
is judged by the whole recorded group, of which its selector saw a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from depo.replay.log import RolloutLog
from depo.replay.picks import Float64Array, Picks
from depo.sampler.calibration import (
    ReliabilityCurve,
    brier,
    expected_calibration_error,
    reliability_curve,
    share,
)
from depo.types.records import BoolArray

CALIBRATION_BINS = 10
EARLY_TICKS = 2
WARM_TICKS = 4
SHORT_LOG = 12

MEASURES: Mapping[str, str] = {
    "informative_share": "informative groups per full group's worth of rollouts spent",
    "recall": "picked ones among all informative groups",
    "lost_share": "informative groups that were not picked: 1 - recall",
    "false_reject_rate": "informative ones among the groups that were not picked",
    "rollouts_per_informative_group": "rollouts spent for each informative group",
    "brier": "mean squared error of P(informative) over the groups picked",
    "ece": "expected calibration error of P(informative) over the groups picked, 10 bins of equal "
    "weight",
    "ece_probed": "the same over the picks that explore or re-probe, cheap probes included",
    "max_age": "longest time a prompt went without a pick, in ticks, to the end of the log",
    "early_informative_share": "informative_share of the first two ticks",
    "picks": "groups picked, all ticks",
    "probes": "cheap probes beside them, all ticks",
}
"""Every measure of a replay's picks."""


def default_warm(log: RolloutLog) -> int:
    """Return how many ticks are not scored unless one says so.

    4, but none of a log with fewer than 12 ticks.
    """
    return WARM_TICKS if log.n_ticks >= SHORT_LOG else 0


def measure(log: RolloutLog, picks: Picks, warm: int) -> dict[str, float]:
    """Return the values of `MEASURES`.

    Args:
        log: The log that was replayed.
        picks: All picks of the replay.
        warm: Ticks that are not scored, counted from the first.
    """
    tick_R = log.tick_of_record
    scored_R = tick_R >= warm
    scored_P = scored_R[picks.records]
    useful_R = log.informative
    informative_share = _informative_share(log, picks, scored_P)
    full_R, full_P = np.zeros(len(log.successes), bool), _full(log, picks)
    full_R[picks.records[full_P]] = True
    recall = share(full_R.astype(float), log.weights * (useful_R & scored_R)).value
    return {
        "informative_share": informative_share,
        "recall": recall,
        "lost_share": 1.0 - recall,
        "false_reject_rate": share(
            useful_R.astype(float), log.weights * (scored_R & ~full_R)
        ).value,
        "rollouts_per_informative_group": log.group_size / informative_share
        if informative_share > 0
        else float("nan"),
        **calibration(log, picks, warm),
        "max_age": float(_max_age(log, picks)),
        "early_informative_share": _informative_share(
            log, picks, tick_R[picks.records] < EARLY_TICKS
        ),
        "picks": float(full_P.sum()),
        "probes": float((~full_P).sum()),
    }


def calibration(log: RolloutLog, picks: Picks, warm: int) -> dict[str, float]:
    """Return brier, ece and ece_probed of `MEASURES`.

    The picks of several replays, joined, are measured as one.

    Over N picks even a perfect belief has an ece of about `0.8 * sqrt(p * (1 - p) * bins / N)`, see
    `ece_noise`: that of one replay says little, and that of its few exploring picks nothing, so
    seeds are pooled.
    """
    picked, probed = (_predictions(log, picks, judged_P) for judged_P in _judged(log, picks, warm))
    return {
        "brier": brier(*picked),
        "ece": expected_calibration_error(*picked, bins=CALIBRATION_BINS),
        "ece_probed": expected_calibration_error(*probed, bins=CALIBRATION_BINS),
    }


def ece_noise(log: RolloutLog, picks: Picks, warm: int) -> dict[str, float]:
    """Return, as ece and ece_probed, what these would be about if every belief were right.

    The mean distance of a bin's observed share from its true one.

    The mean absolute value of a normal variable is sqrt(2 / pi) standard deviations. Several seeds'
    looks at one group see one outcome, and count as one.
    """
    floors = []
    for judged_P in _judged(log, picks, warm):
        predictions = _predictions(log, picks, judged_P)
        weights = predictions[2]
        weights_R = np.bincount(picks.records[judged_P & np.isfinite(picks.p_informative)], weights)
        curve = reliability_curve(*predictions, bins=CALIBRATION_BINS)
        effective_K = curve.mass * (
            weights.sum() ** 2 / (weights_R**2).sum() if weights.size else np.nan
        )
        deviation_K = np.sqrt(curve.predicted * (1 - curve.predicted) / effective_K)
        floors.append(
            float(np.sqrt(2 / np.pi) * (curve.mass * deviation_K).sum())
            if weights.size
            else float("nan")
        )
    return dict(zip(("ece", "ece_probed"), floors, strict=True))


def informative_share_by_tick(log: RolloutLog, picks: Picks) -> list[float]:
    """Return the informative share of each tick's picks, K values."""
    tick_P = log.tick_of_record[picks.records]
    cost_K, found_K = (
        np.bincount(tick_P, values, log.n_ticks)
        for values in (_costs(log, picks), _found(log, picks))
    )
    return [
        float(found / cost) if cost else float("nan")
        for found, cost in zip(found_K, cost_K, strict=True)
    ]


def reliability(log: RolloutLog, picks: Picks, warm: int) -> ReliabilityCurve:
    """Return believed against observed shares of informative groups among scored picks."""
    return reliability_curve(
        *_predictions(log, picks, _judged(log, picks, warm)[0]), bins=CALIBRATION_BINS
    )


def base_informative_share(log: RolloutLog, warm: int) -> float:
    """Return the informative share of all scored records: what picking at random finds."""
    return share(log.informative.astype(float), log.weights * (log.tick_of_record >= warm)).value


def _full(log: RolloutLog, picks: Picks) -> BoolArray:
    """Return which picks paid for a whole group, bool [P]: a cheap probe is no training group."""
    return np.equal(picks.n_rollouts, log.group_size)


def _judged(log: RolloutLog, picks: Picks, warm: int) -> tuple[BoolArray, BoolArray]:
    """Return which picks are scored groups, and which scored ones explore or re-probe.

    Each bool [P].
    """
    scored_P = log.tick_of_record[picks.records] >= warm
    return scored_P & _full(log, picks), scored_P & picks.probed


def _costs(log: RolloutLog, picks: Picks) -> Float64Array:
    """Return what each pick cost in full groups, weighted, float64 [P]."""
    return log.weights[picks.records] * (picks.n_rollouts / log.group_size)


def _found(log: RolloutLog, picks: Picks) -> Float64Array:
    """Return the weight of each informative full group picked, else 0, float64 [P]."""
    return log.weights[picks.records] * (log.informative[picks.records] & _full(log, picks))


def _informative_share(log: RolloutLog, picks: Picks, counted_P: BoolArray) -> float:
    cost = _costs(log, picks)[counted_P].sum()
    return float(_found(log, picks)[counted_P].sum() / cost) if cost > 0 else float("nan")


def _predictions(log: RolloutLog, picks: Picks, counted_P: BoolArray) -> tuple[Any, Any, Any]:
    """Return beliefs, outcomes and weights of the picks that count.

    Only picks about which something was believed.
    """
    known_P = counted_P & np.isfinite(picks.p_informative)
    records = picks.records[known_P]
    return (
        picks.p_informative[known_P],
        log.informative[records].astype(float),
        log.weights[records],
    )


def _max_age(log: RolloutLog, picks: Picks) -> int:
    """Return the longest time between two picks of a prompt, in ticks.

    The start counts as a pick at tick -1, the end as one at tick K.
    """
    prompts, n = np.arange(len(log.prompts)), len(log.prompts)
    prompt = np.concatenate([prompts, log.prompt_positions[picks.records], prompts])
    tick = np.concatenate(
        [np.full(n, -1), log.tick_of_record[picks.records], np.full(n, log.n_ticks)]
    )
    order = np.lexsort((tick, prompt))
    same = prompt[order][1:] == prompt[order][:-1]
    return int(np.diff(tick[order])[same].max())
