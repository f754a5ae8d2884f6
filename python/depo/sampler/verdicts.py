"""What the core says of observed draws, as verdicts and as columns of the calibration window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depo.config.selector import SelectorConfig
from depo.sampler.core import DRAW_KINDS
from depo.types.records import DrawKind, Int64Array, Verdict, VerdictStatus

VERDICT_STATUSES = (
    VerdictStatus.LABELLED,
    VerdictStatus.UNKNOWN,
    VerdictStatus.CLOSED,
    VerdictStatus.NEVER_ISSUED,
)
"""Statuses by the core's codes."""


def verdicts_of(draw_ids: Int64Array, seen: Mapping[str, Any]) -> list[Verdict]:
    """Return one verdict per observed draw, in order."""
    return [
        Verdict(
            draw_id=int(draw_ids[row]),
            status=VERDICT_STATUSES[seen["statuses"][row]],
            informative=bool(seen["informative"][row]),
            mean_reward=float(seen["mean_rewards"][row]),
            pass_rate=float(seen["pass_rates"][row]),
        )
        for row in range(len(draw_ids))
    ]


def calibration_columns(
    seen: Mapping[str, Any], config: SelectorConfig, group_size: int
) -> tuple[NDArray[Any], ...]:
    """Return what was predicted of newly labeled groups, and what came, for `CalibrationWindow`.

    Draws of the warm-up are left out, because nothing was predicted to be rejected then. Probes of
    fewer rollouts than a group are left out, because they show too little.
    """
    hidden = [DRAW_KINDS.index(DrawKind.WARMUP)]
    if config.probe_rollouts not in ("all", group_size):
        hidden.append(DRAW_KINDS.index(DrawKind.REPROBE))
    labelled = seen["statuses"] == VERDICT_STATUSES.index(VerdictStatus.LABELLED)
    judged = labelled & ~np.isin(seen["kinds"], hidden)
    of_rejected = [DRAW_KINDS.index(kind) for kind in (DrawKind.EXPLORE, DrawKind.FILL)]
    names = ("p_informative", "predicted_rewards", "admissions", "informative", "pass_rates")
    rejected = np.isin(seen["kinds"], of_rejected)
    return (*(seen[name][judged] for name in names), rejected[judged])
