"""What a frozen encoder says of each text, computed once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from depo.estimator.model import DifficultyModel
from depo.estimator.text import TextEncoder
from depo.types.records import Float32Array

CAPACITY = 1 << 16
"""Texts remembered, the newest ones: 96 MiB at 384 features."""


class FrozenFeatures:
    """Pooled outputs of an encoder that is not trained, remembered by text.

    Each text is encoded alone, without dropout and without gradient. So its features depend on
    nothing but itself, and whether they were remembered or computed again shows in no result, the
    last bit included.
    """

    def __init__(
        self,
        model: DifficultyModel,
        text: TextEncoder,
        device: torch.device,
        *,
        capacity: int = CAPACITY,
    ) -> None:
        """Remember nothing yet.

        Args:
            model: Its encoder and pooling are used; the trunk is not.
            text: Tokenizes; prompts that do not fit are counted there whenever they are asked for,
                remembered or not.
            device: Where the model lives.
            capacity: Most texts remembered [>= 0].
        """
        self._model, self._text, self._device, self._capacity = model, text, device, capacity
        self._remembered: dict[str, tuple[Float32Array, bool]] = {}

    def __call__(self, texts: Sequence[str]) -> Float32Array:
        """Return the features of M texts, float32 [M, H]."""
        features_MH = np.empty((len(texts), self._model.encoder.config.hidden_size), np.float32)
        for row, text in enumerate(texts):
            features_MH[row] = (
                self._recall(text) if text in self._remembered else self._compute(text)
            )
        return features_MH

    def forget(self) -> None:
        """Drop everything: the encoder's weights are others now."""
        self._remembered.clear()

    def _recall(self, text: str) -> Float32Array:
        features_H, overflowed = self._remembered[text]
        self._text.seen += 1
        self._text.overflowed += overflowed
        return features_H

    @torch.no_grad()
    def _compute(self, text: str) -> Float32Array:
        overflowed_before = self._text.overflowed
        ids_1T, mask_1T = self._text.pad(self._text.encode([text]), self._device)
        nn.Module.eval(self._model.encoder)
        features_H: Float32Array = self._model.pool(ids_1T, mask_1T)[0].cpu().numpy()
        self._remembered[text] = (features_H, self._text.overflowed > overflowed_before)
        if len(self._remembered) > self._capacity:
            del self._remembered[next(iter(self._remembered))]
        return features_H
