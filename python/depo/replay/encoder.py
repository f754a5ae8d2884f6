"""Text models for replays.

An encoder that somebody trained, or the one that a run had at its start.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from depo.replay.log import RolloutLog
from depo.replay.run_journal import CONFIG_FILE
from depo.replay.selectors import TextModel
from depo.types.errors import ConfigError

if TYPE_CHECKING:
    from depo.config import EstimatorConfig
    from depo.estimator import BertDifficultyEstimator

OWN = "own"
"""Names the run's own encoder, as it was before its first step."""


class TextModels:
    """Makes fresh, equal text models, one for each replay of a seed.

    A frozen encoder reads all texts once for each seed, not once for each replay.

    Args:
        encoder: Directory of a Hugging Face encoder, whose weights stay as they are, or `own`.
        log: What is replayed; its texts must be known.
        run_directory: Directory of the run that `own` refers to.

    Raises:
        ConfigError: The log has no texts, or `own` without a run.
    """

    def __init__(self, encoder: str, log: RolloutLog, run_directory: Path | None) -> None:
        if not log.has_text:
            raise ConfigError(
                "--encoder: got a log without prompt texts, expected texts for the encoder to read"
            )
        if encoder == OWN and run_directory is None:
            raise ConfigError(
                f"--encoder: got {OWN}, expected the directory of an encoder: {OWN} is for the "
                f"directory of a depo-train run"
            )
        self._encoder, self._run_directory = encoder, run_directory
        self._texts = [prompt.text for prompt in log.prompts]
        self._config = (
            _own_config(run_directory)
            if encoder == OWN and run_directory
            else _given_config(encoder)
        )
        self._by_seed: dict[int, BertDifficultyEstimator] = {}

    def __call__(self, seed: int) -> TextModel:
        """Return a text model that has not been trained yet."""
        if seed not in self._by_seed:
            self._by_seed[seed] = self._untrained(seed)
        return TextModel(
            copy.deepcopy(self._by_seed[seed]), self._config.replay_steps, self._config.replay_batch
        )

    def _untrained(self, seed: int) -> BertDifficultyEstimator:
        import torch

        from depo.estimator import BertDifficultyEstimator
        from depo.estimator.text import load_tokenizer

        torch.set_num_threads(1)  # the same sums on every machine
        directory = (
            _own_tokenizer(self._run_directory)
            if self._encoder == OWN and self._run_directory
            else Path(self._encoder)
        )
        estimator = BertDifficultyEstimator(self._config, load_tokenizer(directory), seed=seed)
        if self._config.encoder_lr_scale == 0:
            estimator.predict(self._texts)
        return estimator


def _given_config(encoder: str) -> EstimatorConfig:
    from depo.config import EstimatorConfig

    return EstimatorConfig.from_preset("frozen", model=encoder)


def _own_config(run_directory: Path) -> EstimatorConfig:
    from depo.config import load_config

    return load_config(run_directory / CONFIG_FILE).estimator


def _own_tokenizer(run_directory: Path) -> Path:
    from depo.state.checkpoints import latest_checkpoint

    newest = latest_checkpoint(run_directory / "checkpoints")
    if newest is None:
        raise ConfigError(
            f"--encoder: got {OWN}, expected a checkpoint in {run_directory}: the run's encoder "
            f"reads with the policy's tokenizer"
        )
    return newest / "policy"
