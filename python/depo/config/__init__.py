"""Settings: frozen dataclasses (standard library alone), and their loader.

This needs pydantic and tomli-w and is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from depo.config.distributed import DistributedConfig
from depo.config.estimator import EstimatorConfig
from depo.config.loss import LossConfig
from depo.config.sections import (
    DataConfig,
    EvaluationConfig,
    OptimizerConfig,
    PolicyConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SourceConfig,
    TrainConfig,
    VllmConfig,
    WarmStartConfig,
)
from depo.config.selector import SelectorConfig

if TYPE_CHECKING:
    from depo.config.load import dump_config, load_config

__all__ = [
    "DataConfig",
    "DistributedConfig",
    "EstimatorConfig",
    "EvaluationConfig",
    "LossConfig",
    "OptimizerConfig",
    "PolicyConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "SelectorConfig",
    "SourceConfig",
    "TrainConfig",
    "VllmConfig",
    "WarmStartConfig",
    "dump_config",
    "load_config",
]


def __getattr__(name: str) -> Any:
    if name in ("dump_config", "load_config"):
        from depo.config import load

        return getattr(load, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
