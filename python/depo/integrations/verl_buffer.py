"""Report every group of verl's replay buffer to `depo.integrations.verl`.

This includes the groups that verl trains on and those that it discards.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# Imported before verl itself: if verl is missing, this import names the extra to install.
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
"""verl's name for the training partition."""


class DepoReplayBuffer(ReplayBuffer):  # type: ignore[misc]
    """Report the groups of verl's synchronous mode (`trainer_mode` sync) to depo.

    Pass it to verl as `trainer.v1.sampler.custom_sampler`; verl constructs it. Groups that verl
    selects, filters out (DAPO), discards as surplus or marks as failed are observed before they are
    cleared. depo's metrics are added to those of verl's step as `depo/NAME`.

    Raises:
        ConfigError: The class does not fit `trainer_mode`, or rewards would arrive too late.
    """

    def __init__(self, **arguments: Any) -> None:
        """Take the arguments that verl passes to a custom sampler.

        The arguments that verl passes only to its built-in buffers are read from the trainer, whose
        method `refill_fn` is.
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
                "reward model scores only after the buffer was read"
            )
        super().__init__(**{**_builtin_settings(self._trainer), **arguments})
        TRAINERS.add(self._trainer)

    def sample(
        self, global_steps: int, partition_id: str, batch_size: int
    ) -> tuple[tq.KVBatchMeta, dict[str, Any]]:
        """Return verl's batch and metrics, with depo's metrics added."""
        dataset = self._dataset  # raises for a wrong class before verl waits for rollouts
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
        """Record some groups: one reward per session; missing sessions are unknown (NaN)."""
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
        """Return the ids of draws that verl still holds when a batch is complete.

        The synchronous mode drains all that it has dispatched, so there are none.
        """
        return set()


class DepoReplayBufferAsync(DepoReplayBuffer, ReplayBufferAsync):  # type: ignore[misc]
    """Report the groups of verl's asynchronous modes to depo.

    Groups that verl drops as stale are observed too, with the policy version at dispatch.
    """

    def _held(self) -> set[int]:
        """Return the ids of draws whose rows TransferQueue still holds."""
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
    """Return the key `{uid}_{session}_{output}` of each session's last output, by session.

    The last output holds the session's reward.
    """
    last: dict[tuple[int, str], int] = {}
    for uid, session, output in (key.split("_") for key in tags if key.split("_")[0] in uids):
        last[int(session), uid] = max(int(output), last.get((int(session), uid), 0))
    return [f"{uid}_{session}_{last[session, uid]}" for session, uid in sorted(last)]


def _rewards(judged_N: Any, metric: str) -> Float32Array:
    """Return the reward of each rollout, float32 [N]; NaN where it has none.

    Rewards are sums of scores per token, or an extra result of the reward function.

    Raises:
        ConfigError: No rollout has the metric. verl itself checks this only when it filters by it.
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
    """Return the arguments that verl passes only to its built-in buffers.

    Without them, `algorithm.filter_groups` would have no effect.
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
