"""verl's deprecated loop, `trainer.use_v1=False`, as far as a CPU goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import DictConfig
from verl import DataProto
from verl.trainer.ppo.ray_trainer import RayPPOTrainer
from verl.trainer.ppo.utils import create_rl_dataset, create_rl_sampler
from verl.utils import hf_tokenizer
from verl.utils.dataset.rl_dataset import collate_fn


class LegacyLoop:
    """Its data loader, its batches, and `on_batch_end`."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.trainer = RayPPOTrainer.__new__(RayPPOTrainer)
        self.trainer.config = config
        tokenizer = hf_tokenizer(config.actor_rollout_ref.model.path)
        self.dataset, validation = (
            create_rl_dataset(files, config.data, tokenizer, None)
            for files in (config.data.train_files, config.data.val_files)
        )
        self.trainer._create_dataloader(
            self.dataset, validation, collate_fn, create_rl_sampler(config.data, self.dataset)
        )
        self._batches = iter(())

    def draw(self) -> DataProto:
        """Return the next batch of verl's loader, of its next epoch where one ends."""
        while (row := next(self._batches, None)) is None:
            self._batches = iter(self.trainer.train_dataloader)
        return DataProto.from_single_dict(row)

    def finish(
        self, batch: DataProto, reward: Callable[[str, int], float], penalty: float = 0.0
    ) -> DataProto:
        """Roll a batch out, balance it as verl does (which reorders it), end it.

        Also return what it ended with.
        """
        texts = [
            messages[0]["content"]
            for messages in self.trainer._get_gen_batch(batch).non_tensor_batch["raw_prompt"]
        ]
        group_size = self.config.actor_rollout_ref.rollout.n
        rewards = torch.tensor(
            [reward(text, session) for text in texts for session in range(group_size)]
        )
        scores_NT = torch.nn.functional.pad(
            rewards[:, None] - penalty * torch.rand(len(rewards), 1), (1, 0)
        )
        ones_NT = torch.ones_like(scores_NT)
        rollouts = DataProto.from_single_dict(
            {"token_level_scores": scores_NT, "response_mask": ones_NT, "old_log_probs": -ones_NT}
        )
        whole = batch.repeat(repeat_times=group_size, interleave=True).union(rollouts)
        whole.non_tensor_batch["acc"] = rewards.numpy().astype(object)
        whole.reorder(torch.randperm(len(whole)))
        self.dataset.on_batch_end(batch=whole)
        return whole

    def save(self, path: Path) -> None:
        torch.save(self.trainer.train_dataloader.state_dict(), path)

    def restore(self, path: Path) -> None:
        self.trainer.train_dataloader.load_state_dict(torch.load(path, weights_only=False))
