"""Report every group of verl's replay buffer to `depo.integrations.verl`.

Groups that it hands to the trainer and groups that it throws away.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# First of what needs verl, since it names the extra where that is missing.
from depo.integrations.verl import (
    DRAW_ID,
    REWARD,
    TRAINERS,
    DepoRLHFDataset,
    mean_logprobs,
    unknown_metric,
)
from depo.types.errors import ConfigError
from depo.types.records import Float32Array

# isort: split
import numpy as np
import torch
import transfer_queue as tq
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

TRAINING = "train"
"""verl's name of the partition that is trained on."""


class DepoReplayBuffer(ReplayBuffer):  # type: ignore[misc]
    """Buffer of the mode `sync`.

    What verl selects, filters out (DAPO), discards as surplus or finds failed is observed before it
    is cleared.

    depo's metrics join those of verl's step, named `depo/...`.

    Raises:
        ConfigError: The class does not fit `trainer_mode`, or rewards would come too late.
    """

    def __init__(self, **arguments: Any) -> None:
        """Take what verl passes to a custom sampler.

        Also from the trainer behind `refill_fn` what it passes to its own alone.
        """
        self._trainer: Any = getattr(arguments["refill_fn"], "__self__", None)
        if self._trainer is None:
            raise ConfigError(
                f"refill_fn: got {arguments['refill_fn']!r}, expected a method of verl's trainer"
            )
        mode = arguments["trainer_mode"]
        if (mode == "sync") == isinstance(self, ReplayBufferAsync):
            expected = "DepoReplayBuffer" if mode == "sync" else "DepoReplayBufferAsync"
            raise ConfigError(
                f"trainer.v1.sampler.custom_sampler.name: got {type(self).__name__} in mode "
                f"{mode}, expected {expected}"
            )
        model = self._trainer.config.reward.reward_model
        if model.enable and not model.enable_resource_pool:
            raise ConfigError(
                "reward.reward_model.enable_resource_pool: got False, expected True: a colocated "
                "reward model judges after the buffer was asked"
            )
        super().__init__(**{**_builtin_settings(self._trainer), **arguments})
        TRAINERS.add(self._trainer)

    def sample(
        self, global_steps: int, partition_id: str, batch_size: int
    ) -> tuple[tq.KVBatchMeta, dict[str, Any]]:
        """Return verl's batch and metrics, depo's among them."""
        dataset = self._dataset  # a wrong class is refused before anything is waited for
        batch, metrics = super().sample(
            global_steps=global_steps, partition_id=partition_id, batch_size=batch_size
        )
        if partition_id != TRAINING:
            return batch, metrics
        dataset.release_all_but(self._held())
        return batch, {**metrics, **dataset.learn()}

    def _materialize_batch(
        self,
        partition_id: str,
        selected_prompt_uids: list[str],
        partition_snapshot: dict[str, dict[str, Any]],
    ) -> tq.KVBatchMeta:
        self._observe(partition_id, selected_prompt_uids)
        return super()._materialize_batch(partition_id, selected_prompt_uids, partition_snapshot)

    def _clear_groups(self, partition_id: str, uids: set[str]) -> None:
        self._observe(partition_id, uids)
        super()._clear_groups(partition_id, uids)

    @property
    def _dataset(self) -> DepoRLHFDataset:
        dataset = self._trainer.train_dataset
        if not isinstance(dataset, DepoRLHFDataset):
            expected = "path=pkg://depo.integrations.verl and name=DepoRLHFDataset"
            raise ConfigError(f"data.custom_cls: got {type(dataset).__name__}, expected {expected}")
        return dataset

    def _observe(self, partition_id: str, uids: Collection[str]) -> None:
        """Record what is known of some groups: one reward per session, missing sessions unknown."""
        if partition_id != TRAINING:
            return
        keys = _last_outputs(self.partitions[partition_id], set(uids))
        if not keys:
            return
        with_logprobs = self._trainer.config.actor_rollout_ref.rollout.calculate_log_probs
        metric = self._dataset.metric
        judgement = "rm_scores" if metric == REWARD else "extra_fields"
        fields = [
            DRAW_ID,
            judgement,
            *(["rollout_log_probs", "response_mask"] if with_logprobs else []),
        ]
        data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=fields)
        draw_ids_N = torch.stack(list(data[DRAW_ID])).flatten().numpy()
        rewards_N = _rewards(data[judgement], metric)
        logprobs_N = (
            _mean_logprobs(data) if with_logprobs else np.full(len(keys), np.nan, np.float32)
        )
        versions_N = np.array(
            [self.prompt_global_steps[partition_id][key.split("_")[0]] for key in keys]
        )
        for version in np.unique(versions_N):
            rows = versions_N == version
            self._dataset.observe(
                draw_ids_N[rows], rewards_N[rows], logprobs_N[rows], policy_version=int(version)
            )

    def _held(self) -> set[int]:
        """Return the draws that verl still holds when a batch is complete.

        None, since this mode drains what it has dispatched.
        """
        return set()


class DepoReplayBufferAsync(DepoReplayBuffer, ReplayBufferAsync):  # type: ignore[misc]
    """Buffer of the asynchronous modes.

    Groups that were dropped as stale are observed, too, with the version that they were dispatched
    with.
    """

    def _held(self) -> set[int]:
        """Return the draws of the prompts in TransferQueue.

        This keeps their rows in these modes.
        """
        prompts = [
            key
            for key, tag in (tq.kv_list(TRAINING) or {}).get(TRAINING, {}).items()
            if tag.get("is_prompt", False)
        ]
        if not prompts:
            return set()
        data = tq.kv_batch_get(keys=prompts, partition_id=TRAINING, select_fields=[DRAW_ID])
        return {int(draw_id) for draw_id in data[DRAW_ID]}


def _last_outputs(tags: Mapping[str, Any], uids: set[str]) -> list[str]:
    """Return the key `{uid}_{session}_{output}` of each session's last output.

    This carries the session's reward, by session.
    """
    last: dict[tuple[int, str], int] = {}
    for uid, session, output in (key.split("_") for key in tags if key.split("_")[0] in uids):
        last[int(session), uid] = max(int(output), last.get((int(session), uid), 0))
    return [f"{uid}_{session}_{last[session, uid]}" for session, uid in sorted(last)]


def _rewards(judged_N: Any, metric: str) -> Float32Array:
    """Return the reward of each rollout, float32 [N], NaN where it has none.

    From its scores per token, or from the extra results of the reward function.

    Raises:
        ConfigError: Not one of them has the metric; verl itself says so only where it filters by
            it.
    """
    if metric == REWARD:
        return np.array([float(scores.sum()) for scores in judged_N], np.float32)
    extras = [getattr(judged, "data", judged).get("reward_extra_info", {}) for judged in judged_N]
    if not any(metric in extra for extra in extras):
        raise unknown_metric(metric, {name for extra in extras for name in extra})
    return np.array([float(extra.get(metric, np.nan)) for extra in extras], np.float32)


def _mean_logprobs(data: Any) -> Any:
    pairs = [
        (logprobs * mask, mask)
        for logprobs, mask in zip(data["rollout_log_probs"], data["response_mask"], strict=True)
    ]
    return mean_logprobs(
        torch.stack([masked.sum() for masked, _ in pairs]),
        torch.stack([mask.sum() for _, mask in pairs]),
    )


def _builtin_settings(trainer: Any) -> dict[str, Any]:
    """Return the arguments that verl passes to its own buffers alone.

    Without them `algorithm.filter_groups` would silently do nothing.
    """
    config = trainer.config
    metric = trainer._resolve_filter_groups_metric()
    refill_failed = bool(config.trainer.v1.sampler.get("sync_refill_failed_groups", False))
    exact = metric is not None or refill_failed
    return {
        "filter_groups_metric": metric,
        "sync_refill_failed_groups": refill_failed,
        "train_batch_size": config.data.train_batch_size,
        "gen_batch_size": 1
        if exact
        else config.data.get("gen_batch_size") or config.data.train_batch_size,
        "max_inflight_gen_batches": config.algorithm.filter_groups.get(
            "max_inflight_gen_batches", 1
        )
        if metric is not None
        else 1,
    }
