"""Select the rows of verl's training set when verl reads them.

Hydra overrides are enough; verl needs no patch:

    data.custom_cls.path=pkg://depo.integrations.verl
    data.custom_cls.name=DepoRLHFDataset
    data.dataloader_num_workers=0
    trainer.v1.sampler.custom_sampler.path=pkg://depo.integrations.verl_buffer
    trainer.v1.sampler.custom_sampler.name=DepoReplayBuffer

The asynchronous modes take `DepoReplayBufferAsync` instead. Optional overrides are `data.depo.seed`
and any key of depo's `selection`. Any key of `estimator` adds predictions from the prompts' text:

    +data.depo.selection.preset=depo
    +data.depo.seed=0
    +data.depo.estimator.preset=online
    +data.depo.device=cpu

`depo.integrations.verl_buffer` reports the rewards of the rows. With `trainer.use_v1=False`, verl
calls `on_batch_end` instead, and no buffer is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np

from depo.config import SourceConfig
from depo.integrations.row_sampler import RowSampler
from depo.integrations.settings import AdapterSettings, read_settings
from depo.integrations.versions import require_tested
from depo.types.errors import ConfigError
from depo.types.records import Float32Array, Int64Array

require_tested("verl")

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError
from verl.utils.dataset.rl_dataset import RLHFDataset

if TYPE_CHECKING:
    from verl import DataProto

DRAW_ID = "depo_draw_id"
"""Column of every row that holds its draw id, int64 [1].

It is a tensor, because verl's legacy loop drops all other columns of the data set.
"""

REWARD = "reward"
"""verl's name of the metric that is the reward itself."""

GROUP_SIZE = "actor_rollout_ref.rollout.n"

TRAINERS: WeakSet[Any] = WeakSet()
"""V1 trainers of this process that use depo's replay buffer.

Trainer and data set share one configuration object, which is how the data set finds its trainer.
"""

logger = logging.getLogger(__name__)


class DepoRLHFDataset(RLHFDataset):  # type: ignore[misc]
    """Replace verl's RLHFDataset: return the rows that depo selects, whatever the index.

    Pass it to verl as `data.custom_cls`; verl constructs it. Validation files are read as by verl
    itself. Rows with equal prompt and ground truth count as one prompt.

    Settings are in `data.depo`: `selection` and `estimator` as in depo's configuration files,
    `seed`, and `device` of the estimator. Probes are whole groups (`probe_rollouts = "all"`): verl
    would train on a smaller group with its raw reward as advantage. For backfill, use verl's own
    `algorithm.filter_groups`. Its `metric` is also the reward that depo observes, whether filtering
    is enabled or not. It is `reward`, or an extra result of the reward function such as `acc`,
    which leaves out length penalties.

    Raises:
        ConfigError: A setting that depo does not know, dataloader workers, the same files for
            training and validation, or no DepoReplayBuffer.
    """

    def __init__(
        self,
        data_files: Any,
        tokenizer: Any,
        config: DictConfig,
        processor: Any = None,
        max_samples: int = -1,
    ) -> None:
        super().__init__(
            data_files=data_files,
            tokenizer=tokenizer,
            config=config,
            processor=processor,
            max_samples=max_samples,
        )
        self._rows: RowSampler | None = None
        self._steps = 0
        if _listed(data_files) == _listed(config.train_files):
            _check(config)
            self._settings = settings_of(config)
            self._trainer = _trainer_of(config)
            self._rows = _row_sampler(self, config, self._settings)

    @property
    def metric(self) -> str:
        """Name of the reward that depo observes: verl's `algorithm.filter_groups.metric`."""
        return str(_outside(self.config, "algorithm.filter_groups.metric") or REWARD)

    @property
    def rows(self) -> RowSampler:
        """The sampler of the training rows."""
        if self._rows is None:
            raise ConfigError(
                f"data.val_files: got {self.original_data_files} used as training rows, expected "
                f"data.train_files"
            )
        return self._rows

    @property
    def policy_version(self) -> int:
        """The trainer's `global_steps`; in the legacy loop the number of batches that ended."""
        return int(self._trainer.global_steps) if self._trainer is not None else self._steps

    def __getitem__(self, item: int) -> dict[str, Any]:
        """Return the row that depo selects next; in validation files, row `item`."""
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[int]) -> list[dict[str, Any]]:
        """Return one row per item; torch's fetcher calls this once per batch."""
        if self._rows is None:
            return [super(DepoRLHFDataset, self).__getitem__(item) for item in items]
        draws, rows = self._rows.sample(len(items), policy_version=self.policy_version)
        return [
            {**super(DepoRLHFDataset, self).__getitem__(row), DRAW_ID: torch.tensor([draw.draw_id])}
            for draw, row in zip(draws, rows, strict=True)
        ]

    def observe(
        self,
        draw_ids_N: Int64Array,
        rewards_N: Float32Array,
        logprobs_N: Float32Array,
        *,
        policy_version: int,
    ) -> None:
        """Record the rewards of rollouts, in any order.

        Args:
            draw_ids_N: Draw of each rollout, int64 [N].
            rewards_N: Reward of each, float32 [N]; NaN = unknown.
            logprobs_N: Mean token log-probability of each, float32 [N]; NaN = unknown.
            policy_version: Version of the weights that generated them.
        """
        group_size = self.rows.sampler.group_size
        # Sorted, because verl orders groups by random ids and the order affects the estimator.
        draw_ids = np.unique(draw_ids_N)
        rewards_BG = np.full((draw_ids.size, group_size), np.nan, np.float32)
        logprobs_B = np.full(draw_ids.size, np.nan, np.float32)
        for group, draw_id in enumerate(draw_ids):
            members = np.flatnonzero(draw_ids_N == draw_id)[:group_size]
            rewards_BG[group, : members.size] = rewards_N[members]
            known = logprobs_N[members][np.isfinite(logprobs_N[members])]
            logprobs_B[group] = known.mean() if known.size else np.nan
        self.rows.observe(
            [int(draw_id) for draw_id in draw_ids],
            rewards_BG,
            policy_version=policy_version,
            logprobs=np.minimum(logprobs_B, 0.0),
        )

    def release_all_but(self, held: Collection[int]) -> None:
        """Release the draws in flight that are not in `held`, a set of draw ids.

        verl no longer holds their rollouts: they failed, were discarded, or were lost with a
        process.
        """
        lost = [draw for draw in self.rows.sampler.in_flight() if draw.draw_id not in held]
        self.rows.sampler.release(lost, reason="no longer held by verl")

    def learn(self) -> dict[str, float]:
        """Train the estimator, if there is one, and return depo's metrics as `depo/NAME`.

        Metrics that are still unknown are left out.
        """
        learned = {
            f"depo/{name}": value
            for name, value in self.rows.sampler.update_estimator(
                **self._settings.update_options
            ).items()
        }
        return {
            name: value
            for name, value in {**self.rows.metrics(), **learned}.items()
            if np.isfinite(value)
        }

    def on_batch_end(self, batch: DataProto) -> None:
        """Record a batch of verl's legacy loop, which calls this after each step."""
        draw_ids_N = batch.batch[DRAW_ID].flatten().numpy()
        by_reward = self.metric == REWARD
        if not by_reward and self.metric not in batch.non_tensor_batch:
            raise unknown_metric(self.metric, batch.non_tensor_batch)
        rewards_N = (
            batch.batch["token_level_scores"].sum(-1).numpy()
            if by_reward
            else np.asarray(batch.non_tensor_batch[self.metric], np.float32)
        )
        mask_NT = batch.batch["response_mask"].float()
        logprobs_N = mean_logprobs(
            (batch.batch["old_log_probs"] * mask_NT).sum(-1), mask_NT.sum(-1)
        )
        self.observe(draw_ids_N, rewards_N, logprobs_N, policy_version=self.policy_version)
        # verl saves before it calls this, so a resumed run restores draws that no batch will
        # deliver. Draw ids ascend in the order of the batches.
        self.release_all_but(
            {
                draw.draw_id
                for draw in self.rows.sampler.in_flight()
                if draw.draw_id > draw_ids_N.max()
            }
        )
        self._steps += 1
        logger.info("depo: %s", {name: round(value, 4) for name, value in self.learn().items()})

    def state_dict(self) -> dict[str, Any]:
        """Return the state of a bit-exact resume; verl's data loader stores it in `data.pt`."""
        return {} if self._rows is None else {"steps": self._steps, **self._rows.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            StateError: The state has other data, group size or seed; nothing is changed.
        """
        if self._rows is not None:
            self._rows.load_state_dict(state)
            self._steps = int(state["steps"])


def unknown_metric(metric: str, known: Iterable[str]) -> ConfigError:
    """Return the error for a metric that the reward function does not return."""
    names = ", ".join(sorted({REWARD, *known}))
    return ConfigError(
        f"algorithm.filter_groups.metric: got {metric!r}, expected what the reward function "
        f"returns, one of {names}"
    )


def mean_logprobs(sums_N: torch.Tensor, counts_N: torch.Tensor) -> Float32Array:
    """Return sums / counts, float32 [N]; NaN where a response has no token."""
    means_N: Float32Array = (
        torch.where(counts_N > 0, sums_N / counts_N.clamp(min=1), torch.nan).float().numpy()
    )
    return means_N


def _trainer_of(config: DictConfig) -> Any:
    """Return the V1 trainer that reads this configuration; None in the legacy loop."""
    trainer = next((trainer for trainer in TRAINERS if trainer.config.data is config), None)
    if trainer is None and _outside(config, "trainer.use_v1"):
        expected = (
            "path=pkg://depo.integrations.verl_buffer and name=DepoReplayBuffer, which "
            "reports the rewards to the data set"
        )
        raise ConfigError(
            f"trainer.v1.sampler.custom_sampler: got none of depo's, expected {expected}"
        )
    return trainer


def settings_of(config: DictConfig) -> AdapterSettings:
    """Return the settings in `data.depo`.

    Raises:
        ConfigError: A key is unknown, or a value is out of its range.
    """
    tables = OmegaConf.to_container(config.get("depo") or OmegaConf.create(), resolve=True)
    assert isinstance(tables, dict)
    return read_settings({str(name): table for name, table in tables.items()}, "data.depo")


def _check(config: DictConfig) -> None:
    if config.dataloader_num_workers != 0:
        got = config.dataloader_num_workers
        raise ConfigError(
            f"data.dataloader_num_workers: got {got}, expected 0: a worker would choose from a "
            f"copy of the sampler that never sees a reward"
        )
    if _listed(config.train_files) == _listed(config.val_files):
        raise ConfigError(
            f"data.val_files: got {config.val_files}, the same as data.train_files, expected "
            f"other files: depo selects rows of the training files only"
        )
    if _outside(config, GROUP_SIZE) is None:
        raise ConfigError(
            f"{GROUP_SIZE}: got nothing, expected verl's whole configuration around `data`"
        )


def _row_sampler(
    dataset: DepoRLHFDataset, config: DictConfig, settings: AdapterSettings
) -> RowSampler:
    source = SourceConfig(path="data.train_files", layout="verl", prompt_column=dataset.prompt_key)
    estimator = settings.build_estimator(dataset.tokenizer)
    group_size = int(_outside(config, GROUP_SIZE))
    return RowSampler(
        _identities(dataset),
        source,
        group_size=group_size,
        selector=settings.selector,
        estimator=estimator,
        seed=settings.seed,
    )


def _identities(dataset: DepoRLHFDataset) -> Iterator[dict[str, Any]]:
    """Yield the columns of each row that identify its prompt.

    Rows with images, video or audio are all distinct, since texts such as "<image> Find x." repeat.
    """
    columns = set(dataset.dataframe.column_names)
    needed = sorted(columns & {dataset.prompt_key, "data_source", "reward_model"})
    told_apart = bool(columns & {dataset.image_key, dataset.video_key, dataset.audio_key})
    for number, row in enumerate(dataset.dataframe.select_columns(needed)):
        truth = (row.get("reward_model") or {}).get("ground_truth", "")
        yield {**row, "reward_model": {"ground_truth": [truth, number] if told_apart else truth}}


def _outside(config: DictConfig, name: str) -> Any:
    """Return a value from outside the section `data` of verl's configuration, or None."""
    try:
        return OmegaConf.select(config, f"..{name}")
    except ConfigKeyError:
        return None


def _listed(files: Any) -> list[str]:
    return (
        [str(file) for file in files]
        if isinstance(files, (list, tuple, ListConfig))
        else [str(files)]
    )
