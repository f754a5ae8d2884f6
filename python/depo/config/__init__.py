"""Settings: frozen dataclasses (standard library alone) and the loader of TOML files and command-line overrides."""

from depo.config.sections import (
    DataConfig,
    EstimatorConfig,
    EvaluationConfig,
    LossConfig,
    OptimizerConfig,
    PolicyConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SourceConfig,
    TrainConfig,
    WarmStartConfig,
)
from depo.config.selector import SelectorConfig

__all__ = [
    "DataConfig",
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
    "WarmStartConfig",
]
