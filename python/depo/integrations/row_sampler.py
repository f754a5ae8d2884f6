"""Run a PromptSampler over the rows of a framework's data set, and save its state."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from depo.config import SelectorConfig, SourceConfig
from depo.data.layouts import prompts_from_rows
from depo.sampler import PromptSampler
from depo.state.files import StateFiles, read_state
from depo.types.errors import DataError, StateError
from depo.types.protocols import DifficultyEstimator
from depo.types.records import Draw, Verdict

logger = logging.getLogger(__name__)


class RowSampler:
    """Select rows of a data set for groups of rollouts.

    Rows with equal prompt and ground truth count as one prompt, represented by the first of them; a
    warning is logged.

    Args:
        rows: The data set's rows, each a mapping of columns.
        source: How to read the rows, for example `SourceConfig(path=NAME, layout="trl")`. NAME is
            used in messages only.
        group_size: Rollouts per prompt, G >= 2.
        selector: Settings of the selection, or the name of a preset.
        estimator: Predicts pass rates from text; None: use history alone.
        seed: Seed of every draw.

    Raises:
        ConfigError: No preset has that name.
        DataError: A row lacks its prompt, or there are no rows; the message names the row.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        source: SourceConfig,
        *,
        group_size: int,
        selector: SelectorConfig | str = "depo",
        estimator: DifficultyEstimator | None = None,
        seed: int = 0,
    ) -> None:
        read = prompts_from_rows(
            ((f"{source.path}, row {number}", dict(row)) for number, row in enumerate(rows)), source
        )
        self._row_of = {prompt.id: row for row, prompt in reversed(list(enumerate(read)))}
        if merged := len(read) - len(self._row_of):
            logger.warning(
                "%s: %d of %d rows repeat an earlier prompt and ground truth; the first row "
                "stands for all",
                source.path,
                merged,
                len(read),
            )
        config = SelectorConfig.from_preset(selector) if isinstance(selector, str) else selector
        prompts = [replace(read[row], columns={}) for row in sorted(self._row_of.values())]
        self.sampler = PromptSampler(prompts, group_size, config, estimator, seed)

    def sample(self, n: int, *, policy_version: int) -> tuple[list[Draw], list[int]]:
        """Return exactly n draws, which are now in flight, and the row index of each.

        Raises:
            DataError: Fewer than n prompts are not in flight; no new draw is kept.
        """
        draws = self.sampler.sample(n, policy_version=policy_version)
        if len(draws) < n:
            self.sampler.release(draws, reason="too few for a batch")
            size, busy = len(self.sampler.prompts), len(self.sampler.in_flight())
            raise DataError(
                f"data set: got {size} distinct prompts, {busy} of them in flight, expected at "
                f"least {n} free ones for a batch"
            )
        return draws, [self.row_of(draw) for draw in draws]

    def row_of(self, draw: Draw) -> int:
        """Return the row index of a draw."""
        return self._row_of[draw.prompt.id]

    def observe(
        self,
        draws: Sequence[Draw | int],
        rewards: ArrayLike,
        *,
        policy_version: int,
        logprobs: ArrayLike | None = None,
    ) -> list[Verdict]:
        """Record rewards [B, G] and mean token log-probabilities [B]; NaN = unknown.

        See `PromptSampler.observe`.
        """
        return self.sampler.observe(
            draws, rewards, policy_version=policy_version, logprobs=logprobs
        )

    def metrics(self) -> dict[str, float]:
        """Return the sampler's metrics as `depo/NAME`."""
        return {f"depo/{name}": value for name, value in self.sampler.metrics().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of a bit-exact resume, including the estimator's."""
        estimator = self.sampler.estimator
        return {
            "sampler": self.sampler.state_dict(),
            "estimator": estimator.state_dict() if estimator else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            StateError: The state has another data set, group size, seed or estimator; nothing is
                changed.
        """
        estimator = self.sampler.estimator
        if missing := {"sampler", "estimator"} - set(state):
            raise StateError(
                f"row sampler state: got entries {sorted(state)}, expected also {sorted(missing)}"
            )
        if (state["estimator"] is None) != (estimator is None):
            got, expected = (
                "none" if absent else "one"
                for absent in (state["estimator"] is None, estimator is None)
            )
            raise StateError(f"row sampler state: got {got} for the estimator, expected {expected}")
        before = self.sampler.state_dict()
        self.sampler.load_state_dict(state["sampler"])
        if estimator:
            try:
                estimator.load_state_dict(state["estimator"])
            except Exception:
                self.sampler.load_state_dict(before)
                raise

    def save(self, directory: Path) -> None:
        """Write the state as JSON and safetensors into a directory, which is created."""
        directory.mkdir(parents=True, exist_ok=True)
        StateFiles(self.state_dict()).write(directory)

    def load(self, directory: Path) -> None:
        """Restore what `save` wrote.

        Raises:
            StateError: There is no state, or it does not fit this sampler.
        """
        if not (directory / "state.json").is_file():
            raise StateError(
                f"{directory}: got no state.json, expected the state of a depo sampler"
            )
        self.load_state_dict(read_state(directory))
