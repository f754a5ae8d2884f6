"""Read depo's settings from another framework's configuration, and build their estimator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from depo.config import EstimatorConfig, SelectorConfig
from depo.config.load import load_tables
from depo.types.errors import ConfigError
from depo.types.protocols import DifficultyEstimator

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """Settings of an adapter.

    Attributes:
        selector: How prompts are selected. Probes are whole groups (`probe_rollouts = "all"`),
            because frameworks roll out and train on whole groups.
        estimator: Settings of the difficulty estimator; None: use each prompt's history alone.
        seed: Seed of every draw.
        device: Device of the estimator.
    """

    selector: SelectorConfig
    estimator: EstimatorConfig | None
    seed: int
    device: str

    def build_estimator(self, tokenizer: PreTrainedTokenizerBase) -> DifficultyEstimator | None:
        """Return a fresh estimator on the policy's tokenizer, or None."""
        if self.estimator is None:
            return None
        from depo.estimator import BertDifficultyEstimator

        return BertDifficultyEstimator(
            self.estimator, tokenizer, seed=self.seed, device=self.device
        )

    @property
    def update_options(self) -> dict[str, int]:
        """Keyword arguments of `PromptSampler.update_estimator`."""
        return (
            {
                "replay_steps": self.estimator.replay_steps,
                "replay_batch": self.estimator.replay_batch,
            }
            if self.estimator
            else {}
        )


def read_settings(tables: Mapping[str, Any], where: str) -> AdapterSettings:
    """Read `selection`, `estimator`, `seed` and `device`; return the adapter's settings.

    `selection` and `estimator` are tables as in depo's configuration files. Without the table
    `estimator`, there is no estimator.

    Args:
        tables: depo's part of the framework's configuration.
        where: Name of that part for messages, such as "data.depo".

    Raises:
        ConfigError: A name is unknown, or a value has the wrong type or is out of its range.
    """
    if unknown := set(tables) - {"selection", "estimator", "seed", "device"}:
        raise ConfigError(
            f"{where}: got {', '.join(map(str, sorted(unknown)))}, expected selection, estimator, "
            f"seed or device"
        )
    sections = {name: tables[name] for name in ("selection", "estimator") if name in tables}
    chosen = load_tables(
        {**sections, "run": {name: tables[name] for name in ("seed", "device") if name in tables}},
        f"in {where}",
    )
    return AdapterSettings(
        selector=replace(chosen.selection, probe_rollouts="all"),
        estimator=chosen.estimator if "estimator" in tables and chosen.estimator.enabled else None,
        seed=chosen.run.seed,
        device=chosen.run.device if "device" in tables else "cpu",
    )
