"""Select the prompts of slime, and of miles and vime, which have the same interface.

Flags are enough; the frameworks need no patch:

    --data-source-path depo.integrations.slime.DepoDataSource
    --rollout-all-samples-process-path depo.integrations.slime.observe_all_samples
    --custom-config-path depo.yaml

The file is optional. slime makes each of its keys an attribute of the arguments; depo reads `depo`:

    depo:
      seed: 0
      selection: {preset: depo}       # any key of depo's [selection]
      estimator: {preset: online}     # adds predictions from text; any key of [estimator]
      device: cpu

Prompts come from slime's own data set and flags (--prompt-data, --input-key, --label-key,
--apply-chat-template and others).
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from depo.config import SourceConfig
from depo.integrations.row_sampler import RowSampler
from depo.integrations.settings import AdapterSettings, read_settings
from depo.state.files import StateFiles, read_state
from depo.types.errors import ConfigError, DataError
from depo.types.records import Draw, Float32Array

FRAMEWORKS = ("slime", "miles", "vime")
"""Packages whose class `rollout.data_source.RolloutDataSource` reads the prompts."""

Group = list[Any]
"""The samples of one draw: each a slime `Sample`, or a list if a rollout gives several."""

UNKNOWN_STATUSES = ("aborted", "failed")
"""Values of `Sample.status` for which the reward is unknown."""

logger = logging.getLogger(__name__)


class DepoDataSource:
    """Serve as slime's data source with prompts that depo selects.

    Pass it as --data-source-path; slime constructs it. `get_samples` draws prompts, `observe`
    records the rewards of their groups. A draw's id is the `group_index` of its samples. Prompts
    with equal text and label count as one.

    Groups that slime aborts in the middle of a response and returns (--partial-rollout) come first
    in the next round. All other aborted groups are released. After a resume, groups that were in
    flight are rolled out again, before all others.

    Args:
        args: slime's arguments.

    Raises:
        ConfigError: A flag or setting does not work with depo.
        DataError: A prompt is neither text nor a list of chat messages with text.
        ImportError: None of FRAMEWORKS is installed.
    """

    def __init__(self, args: Any) -> None:
        _check(args)
        self._args = args
        self._samples = _read_samples(args)
        self._settings = read_settings(
            getattr(args, "depo", None) or {}, "depo of --custom-config-path"
        )
        self.rows = _row_sampler(args, self._samples, self._settings)
        self.policy_version = 0
        self._first: list[Group] = []

    def get_samples(self, num_samples: int) -> list[Group]:
        """Return `num_samples` groups of samples.

        Raises:
            DataError: Too few prompts are not in flight.
        """
        again, self._first = self._first[:num_samples], self._first[num_samples:]
        draws, rows = (
            self.rows.sample(num_samples - len(again), policy_version=self.policy_version)
            if len(again) < num_samples
            else ([], [])
        )
        return [*again, *(self._group(draw, row) for draw, row in zip(draws, rows, strict=True))]

    def add_samples(self, samples: Sequence[Group]) -> None:
        """Take back aborted groups: they come first in the next round, with their partial text."""
        self._first.extend(samples)

    def get_buffer_length(self) -> int:
        """Return the number of groups that the next round starts with."""
        return len(self._first)

    def observe(self, groups: Sequence[Group]) -> None:
        """Record all groups of a round, train the estimator, and start the next policy version.

        Args:
            groups: All finished groups, those that slime kept and those that it dropped.
        """
        own = [group for group in groups if _last(group[0]).group_index is not None]
        draw_ids = [int(_last(group[0]).group_index) for group in own]
        rewards_BG = np.full((len(own), self.rows.sampler.group_size), np.nan, np.float32)
        for row_G, group in zip(rewards_BG, own, strict=True):
            row_G[: len(group)] = [
                _reward(_last(sample), self._args.reward_key) for sample in group
            ]
        logprobs_B = [_mean_logprob(group) for group in own]
        self.rows.observe(
            draw_ids, rewards_BG, policy_version=self.policy_version, logprobs=logprobs_B
        )
        if not self._args.partial_rollout:
            waiting = {_last(group[0]).group_index for group in self._first}
            lost = [draw for draw in self.rows.sampler.in_flight() if draw.draw_id not in waiting]
            self.rows.sampler.release(lost, reason="aborted by slime at the end of a round")
        learned = self.rows.sampler.update_estimator(**self._settings.update_options)
        self.policy_version += 1
        metrics = {
            **self.rows.metrics(),
            **{f"depo/{name}": value for name, value in learned.items()},
        }
        logger.info(
            "depo: %s",
            {name: round(value, 4) for name, value in metrics.items() if np.isfinite(value)},
        )

    def save(self, rollout_id: int) -> None:
        """Write JSON and safetensors to `{--save}/rollout/depo_state_{rollout_id}/`."""
        if self._args.save is None:
            return
        files = StateFiles({"policy_version": self.policy_version, **self.rows.state_dict()})
        directory = _state_directory(self._args.save, rollout_id)
        draft = directory.with_name(f".{directory.name}")
        for stale in (draft, directory):
            shutil.rmtree(stale, ignore_errors=True)
        draft.mkdir(parents=True)
        files.write(draft)
        draft.rename(directory)  # a kill leaves a whole state or none

    def load(self, rollout_id: int | None = None) -> None:
        """Restore what `save` wrote below --load.

        If there is no state, as in a checkpoint of another run, log a warning and start afresh.

        Raises:
            StateError: The state has other data, group size, seed or estimator; nothing is changed.
        """
        if self._args.load is None or rollout_id is None or rollout_id < 0:
            return
        directory = _state_directory(self._args.load, rollout_id)
        if not directory.is_dir():
            logger.warning("%s: no such directory; depo starts afresh", directory)
            return
        state = read_state(directory)
        self.rows.load_state_dict(state)
        self.policy_version = int(state["policy_version"])
        self._first = [
            self._group(draw, self.rows.row_of(draw)) for draw in self.rows.sampler.in_flight()
        ]

    def __len__(self) -> int:
        """Return the length of an epoch: the size of slime's data set, duplicates included."""
        return len(self._samples)

    def _group(self, draw: Draw, row: int) -> Group:
        group_size = self.rows.sampler.group_size
        group = [copy.deepcopy(self._samples[row]) for _ in range(group_size)]
        for place, sample in enumerate(group):
            sample.group_index, sample.index = draw.draw_id, draw.draw_id * group_size + place
        return group


def observe_all_samples(args: Any, all_samples: Sequence[Group], data_source: Any) -> None:
    """Report a round's groups to the data source; pass as --rollout-all-samples-process-path.

    Args:
        args: slime's arguments.
        all_samples: All finished groups, kept and dropped.
        data_source: The DepoDataSource, or its bound method `get_samples`, which slime passes.

    Raises:
        ConfigError: The data source is not a DepoDataSource.
    """
    source = getattr(data_source, "__self__", data_source)
    if not isinstance(source, DepoDataSource):
        raise ConfigError(
            f"--data-source-path: got a {type(source).__name__}, expected "
            f"depo.integrations.slime.DepoDataSource"
        )
    source.observe(all_samples)


def _check(args: Any) -> None:
    if args.rollout_all_samples_process_path is None:
        hook = f"{__name__}.{observe_all_samples.__name__}, or a function that calls it"
        raise ConfigError(
            f"--rollout-all-samples-process-path: got nothing, expected {hook}: without it depo "
            f"gets no rewards"
        )
    if args.prompt_data is None or not args.rollout_global_dataset:
        raise ConfigError(
            "--prompt-data: got nothing, or --disable-rollout-global-dataset, expected a file of "
            "prompts to choose from"
        )
    if args.buffer_filter_path is not None:
        raise ConfigError(
            f"--buffer-filter-path: got {args.buffer_filter_path}, expected none: a filter could "
            f"drop groups that depo still counts as in flight"
        )


def _read_samples(args: Any) -> list[Any]:
    """Return one sample per prompt, in file order, read by the framework's data source."""
    unshuffled = copy.copy(args)
    unshuffled.rollout_shuffle = False
    dataset = _framework_module().RolloutDataSource(unshuffled).dataset
    return [dataset[row] for row in range(len(dataset))]


def _framework_module() -> Any:
    present = [name for name in FRAMEWORKS if name in sys.modules] or [
        name for name in FRAMEWORKS if importlib.util.find_spec(name)
    ]
    if not present:
        raise ImportError(
            f"depo.integrations.slime needs one of {', '.join(FRAMEWORKS)}; none is installed; "
            f"install one from its repository"
        )
    return importlib.import_module(f"{present[0]}.rollout.data_source")


def _row_sampler(args: Any, samples: Sequence[Any], settings: AdapterSettings) -> RowSampler:
    estimator = None
    if settings.estimator is not None:
        from transformers import AutoTokenizer

        estimator = settings.build_estimator(
            AutoTokenizer.from_pretrained(args.hf_checkpoint, trust_remote_code=True)
        )
    source = SourceConfig(path=str(args.prompt_data), layout="trl")
    rows = _identities(samples, told_apart=args.multimodal_keys is not None)
    return RowSampler(
        rows,
        source,
        group_size=args.n_samples_per_prompt,
        selector=settings.selector,
        estimator=estimator,
        seed=settings.seed,
    )


def _identities(samples: Sequence[Any], *, told_apart: bool) -> Iterator[dict[str, Any]]:
    """Yield the values of each sample that identify its prompt.

    Samples with images or the like are all distinct, since texts such as "<image> Find x." repeat.
    """
    for number, sample in enumerate(samples):
        label = [sample.label, number] if told_apart else sample.label
        yield (
            {"prompt": sample.prompt}
            if label is None
            else {"prompt": sample.prompt, "label": label}
        )


def _last(sample: Any) -> Any:
    """Return the last training sample of a rollout, which holds the reward."""
    return sample[-1] if isinstance(sample, list) else sample


def _reward(sample: Any, reward_key: str | None) -> float:
    """Return the reward of a sample; NaN if it is unknown."""
    if sample.reward is None or sample.status.value in UNKNOWN_STATUSES:
        return float("nan")
    if reward_key is None and isinstance(sample.reward, dict):
        raise DataError(
            f"reward: got a dict of {', '.join(map(str, sample.reward))}, expected a number, or "
            f"--reward-key to name one of them"
        )
    return float(sample.reward if reward_key is None else sample.reward[reward_key])


def _mean_logprob(group: Group) -> float:
    """Return the group's mean of the responses' mean token log-probabilities, or NaN."""
    means: Float32Array = np.array(
        [np.mean(logprobs) for sample in group if (logprobs := _last(sample).rollout_log_probs)],
        np.float32,
    )
    return min(float(means.mean()), 0.0) if means.size else float("nan")


def _state_directory(root: str, rollout_id: int) -> Path:
    return Path(root) / "rollout" / f"depo_state_{rollout_id}"
