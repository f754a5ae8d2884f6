"""A pool, an estimator and a policy's answers, for tests of PromptSampler without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depo import Draw, Prompt, PromptSampler, SelectorConfig
from depo.types.records import Float32Array, TargetBatch

G = 4


class LengthEstimator:
    """Predicts from the length of the text alone: a real, deterministic estimator without torch."""

    def __init__(self) -> None:
        self.version = 0
        self.batches: list[TargetBatch] = []

    def predict(self, texts: Sequence[str]) -> Float32Array:
        return np.array([1 / (1 + math.exp(len(text) - 6)) for text in texts], np.float32)

    def update(self, batches: Sequence[TargetBatch]) -> dict[str, float]:
        self.version += 1
        self.batches.extend(batches)
        return {"estimator/batches": float(len(batches))}

    def state_dict(self) -> dict[str, Any]:
        return {"version": self.version}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.version = state["version"]


def pool(size: int) -> list[Prompt]:
    return [
        Prompt(text="x" * (1 + index % 12) + str(index), source="ab"[index % 2])
        for index in range(size)
    ]


def make(
    size: int = 60, preset: str = "depo", estimator: bool = True, seed: int = 3, **overrides: object
) -> PromptSampler:
    config = SelectorConfig.from_preset(preset, **{"warmup_steps": 1, **overrides})
    return PromptSampler(pool(size), G, config, LengthEstimator() if estimator else None, seed)


def answer(draws: Sequence[Draw]) -> list[list[float]]:
    """Rewards that are a function of the prompt.

    Short ones succeed always, long ones never, some in between; NaN beyond what a probe asked for.
    """
    return [
        [
            float(len(draw.prompt.text) < 4 + 2 * g) if g < draw.n_rollouts else math.nan
            for g in range(G)
        ]
        for draw in draws
    ]


def utf8_buffers(
    texts: Sequence[str], width: type[np.int32] | type[np.int64] = np.int64
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Texts one behind the other, and where each begins and the last ends."""
    encoded = [text.encode() for text in texts]
    return np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([0, *map(len, encoded)]).astype(
        width
    )


def chat(*contents: str | None) -> list[dict[str, str | None]]:
    """Chat messages of a user."""
    return [{"role": "user", "content": content} for content in contents]
