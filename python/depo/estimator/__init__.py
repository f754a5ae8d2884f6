"""The difficulty estimator.

An encoder that reads a prompt, two heads, and the calibration of what they say.

`depo.sampler.calibration` needs numpy only; the estimator itself loads torch and transformers on
first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depo.estimator.bert import BertDifficultyEstimator

__all__ = ["BertDifficultyEstimator"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("depo.estimator.bert"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
