"""Held-out accuracy by difficulty band, and unfiltered probes of what the sampler believes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from depo.config import TrainConfig
from depo.rewards.judging import judge
from depo.sampler import PromptSampler
from depo.sampler.calibration import auroc, false_reject_rate, lost_share
from depo.sampler.keyed import derive_key, uniforms
from depo.types.protocols import RewardFunction, RolloutEngine
from depo.types.records import Float32Array, Prompt


def evaluate(
    prompts: Sequence[Prompt],
    engine: RolloutEngine,
    reward: RewardFunction,
    config: TrainConfig,
    step: int,
) -> dict[str, float]:
    """Return Avg@samples on held-out prompts.

    `eval/accuracy` and, for prompts with a band, `eval/accuracy/BAND`; unknown rewards count as
    wrong.

    The random numbers depend on seed, step and prompt, not on the method that is evaluated: runs
    that are compared are compared on the same draws.
    """
    if not prompts:
        return {}
    keys = [
        derive_key(config.run.seed, "evaluation", step, position)
        for position in range(len(prompts))
    ]
    rollouts = engine.generate(
        prompts, config.evaluation.samples, keys, temperature=config.evaluation.temperature
    )
    accuracies = np.nan_to_num(judge(reward, prompts, rollouts, config.evaluation.samples)).mean(
        axis=1
    )
    bands = np.array([prompt.band for prompt in prompts])
    by_band = {
        f"eval/accuracy/{band}": float(accuracies[bands == band].mean())
        for band in sorted(set(bands) - {""})
    }
    return {"eval/accuracy": float(accuracies.mean()), **by_band}


def probe(
    sampler: PromptSampler,
    engine: RolloutEngine,
    reward: RewardFunction,
    config: TrainConfig,
    step: int,
) -> list[dict[str, Any]]:
    """Roll out random prompts of the whole pool and compare with the sampler's beliefs.

    What the selection rule would do with them plays no part.

    Nothing is trained on these prompts, and nothing is remembered. Without an estimator there is
    nothing to measure.

    Returns:
        One row per prompt whose rewards are known: step, prompt_id, predicted_reward,
            p_informative, wanted, informative, pass_rate.
    """
    size = min(config.evaluation.probe_prompts, len(sampler.prompts))
    if size == 0 or sampler.estimator is None:
        return []
    chosen = np.argsort(
        uniforms([derive_key(config.run.seed, "probe", step)], 0, len(sampler.prompts))[0],
        kind="stable",
    )[:size]
    predicted_C, p_informative_C, wanted_C = sampler.beliefs(chosen, policy_version=step)
    prompts = [sampler.prompts[index] for index in chosen]
    keys = [derive_key(config.run.seed, "probe/rollout", step, row) for row in range(size)]
    group_size = config.rollout.group_size
    rewards_BG = judge(
        reward,
        prompts,
        engine.generate(prompts, group_size, keys, temperature=config.rollout.temperature),
        group_size,
    )
    beliefs = zip(prompts, predicted_C, p_informative_C, wanted_C, strict=True)
    rows = zip(beliefs, (rewards_G[~np.isnan(rewards_G)] for rewards_G in rewards_BG), strict=True)
    return [_probe_row(step, *belief, known, config) for belief, known in rows if known.size]


def _probe_row(
    step: int,
    prompt: Prompt,
    predicted: float,
    p_informative: float,
    wanted: bool,
    known: Float32Array,
    config: TrainConfig,
) -> dict[str, Any]:
    return {
        "step": step,
        "prompt_id": prompt.id,
        "predicted_reward": float(predicted),
        "p_informative": float(p_informative),
        "wanted": bool(wanted),
        "informative": bool(known.max() - known.min() > config.selection.tolerance),
        "pass_rate": float((known >= np.float32(config.selection.success_threshold)).mean()),
    }


def probe_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return `probe/...` over probe rows of one or many steps.

    How well P(informative) ranks, and what the policy alone would reject.
    """
    if not rows:
        return {}
    columns = {
        name: np.array([row[name] for row in rows])
        for name in ("predicted_reward", "p_informative", "wanted", "informative", "pass_rate")
    }
    return {
        "probe/informative_share": float(columns["informative"].mean()),
        "probe/reject_share": float(1.0 - columns["wanted"].mean()),
        "probe/auroc": auroc(columns["p_informative"], columns["informative"]),
        "probe/false_reject_rate": false_reject_rate(
            columns["informative"], ~columns["wanted"]
        ).value,
        "probe/lost_share": lost_share(columns["informative"], ~columns["wanted"]).value,
        "probe/mae": float(np.abs(columns["predicted_reward"] - columns["pass_rate"]).mean()),
    }
