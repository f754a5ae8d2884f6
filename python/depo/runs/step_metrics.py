"""What one training step says about its rollouts and its selection.

Pure functions of the groups and of the sampler's totals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from depo.types.records import JudgedGroup, VerdictStatus


def rollout_metrics(
    rounds: Sequence[Sequence[JudgedGroup]], trained: Sequence[JudgedGroup]
) -> dict[str, float]:
    """Return `reward/...`, `rollout/...` and `train/groups` of one step.

    Shares are over rolled-out groups (without probes) or sequences (with them), 0 where there are
    none.
    """
    generated = [group for judged in rounds for group in judged]
    lengths = np.array([ids.size for group in generated for ids in group.rollouts.response_ids])
    finished = (
        np.concatenate([group.rollouts.finished for group in generated])
        if generated
        else np.zeros(0, bool)
    )
    rewards = (
        np.concatenate([group.rewards_G[: group.draw.n_rollouts] for group in generated])
        if generated
        else np.zeros(0, np.float32)
    )
    groups = [group for group in generated if not group.is_probe]
    informative = sum(group.verdict.informative for group in groups)
    unknown_groups = sum(group.verdict.status is VerdictStatus.UNKNOWN for group in groups)
    return {
        "reward/mean": _mean(rewards[~np.isnan(rewards)]),
        "rollout/rounds": float(len(rounds)),
        "rollout/groups": float(len(groups)),
        "rollout/sequences": float(lengths.size),
        "rollout/tokens": float(lengths.sum()),
        "rollout/response_tokens_mean": _mean(lengths),
        "rollout/truncated_share": _mean(~finished),
        "rollout/informative_share": informative / max(len(groups), 1),
        "rollout/zero_variance_share": (len(groups) - informative - unknown_groups)
        / max(len(groups), 1),
        "rollout/unknown_share": _mean(np.isnan(rewards)),
        "train/groups": float(len(trained)),
    }


def selection_metrics(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return what the sampler did between two calls of its `metrics`.

    Also its present calibration.
    """
    change = {name: after[name] - before[name] for name in after if name.startswith("sampler/")}
    scanned = change["sampler/scanned"]
    counts = {
        f"selection/{name}": change[f"sampler/{name}"]
        for name in ("scanned", "rejected", "drawn_explore", "drawn_reprobe", "drawn_fill")
    }
    calibration = {
        name: value for name, value in after.items() if name.startswith(("calibration/", "belief/"))
    }
    return {
        **counts,
        "selection/reject_share": change["sampler/rejected"] / scanned if scanned else 0.0,
        "selection/starved_total": after["sampler/starved_calls"],
        "selection/oldest_label_age": after["sampler/oldest_label_age"],
        **calibration,
    }


def sequences_saved(metrics: Mapping[str, float], group_size: int) -> float:
    """Return how many more sequences uniform sampling would have needed.

    For this step's informative groups; 0 while nothing is known about the rejected prompts.

    The share of informative groups without selection is estimated from what was observed, weighted
    by 1/admission.
    """
    unfiltered = metrics["calibration/unfiltered_informative_share"]
    if not unfiltered > 0:
        return 0.0
    informative = metrics["rollout/informative_share"] * metrics["rollout/groups"]
    return group_size * informative / unfiltered - metrics["rollout/sequences"]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0
