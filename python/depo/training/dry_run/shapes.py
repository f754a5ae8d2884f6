"""The numbers of a model that memory depends on, read off its configuration.

Neither weights nor a GPU are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from depo.config import EstimatorConfig
from depo.estimator.model import DifficultyModel, build_encoder
from depo.types.errors import ConfigError

SIZES: Mapping[str, int] = {"float32": 4, "bfloat16": 2}
"""Bytes of a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of the shortest and of the longest prompt, and of the longest response."""

    shortest_prompt: int
    longest_prompt: int
    response: int

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return self.longest_prompt + self.response


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyShape:
    """A causal language model.

    Attributes:
        parameters: All, tied ones once.
        layer_parameters: Those of the largest layer.
        outside_parameters: Those of no layer: embeddings, head, last norm.
        layers: Number of layers.
        width: Size of the residual stream.
        heads: Attention heads.
        kv_heads: Heads of keys and values.
        head_size: Size of each.
        feed_forward: Width of the feed-forward layers.
        vocabulary: Tokens that the head tells apart.
    """

    parameters: int
    layer_parameters: int
    outside_parameters: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
    vocabulary: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> PolicyShape:
        """Read it off a model of this configuration on torch's meta device.

        This holds no numbers.
        """
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        layers = [
            _size(module)
            for module in model.modules()
            if isinstance(module, GradientCheckpointingLayer)
        ]
        text: Any = config.get_text_config()
        return cls(
            parameters=_size(model),
            layer_parameters=max(layers, default=0),
            outside_parameters=_size(model) - sum(layers),
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            heads=text.num_attention_heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
            head_size=getattr(text, "head_dim", None)
            or text.hidden_size // text.num_attention_heads,
            feed_forward=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
            vocabulary=text.vocab_size,
        )

    def kv_bytes(self, size: int) -> int:
        """Return the bytes of keys and values of one position, in numbers of `size` bytes.

        A sliding window, which holds less, counts in full.
        """
        return 2 * self.layers * self.kv_heads * self.head_size * size

    def layer_activations(self, size: int, casts: bool) -> int:
        """Return the bytes of one layer, for each token, that wait for the backward pass.

        Exact for Llama and Qwen2 with sdpa attention and float32 weights.

        Args:
            size: Bytes of a number in matrix products.
            casts: Whether autocast makes them from float32, a copy for each product.
        """
        norms = 4 * (4 * self.width + 2)
        inputs = (5 if casts else 2) * self.width
        attention = 2 * (self.heads + self.kv_heads) * self.head_size
        return norms + size * (inputs + attention + 4 * self.feed_forward) + 4 * self.heads


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatorShape:
    """A difficulty estimator, which computes in float32.

    Attributes:
        parameters: All.
        trained: Those that the optimizer moves.
        activations: Bytes of one text that wait for the backward pass.
        texts_per_pass: Texts of which they do so at a time.
    """

    parameters: int
    trained: int
    activations: int
    texts_per_pass: int

    @classmethod
    def of(cls, config: EstimatorConfig, vocabulary: int, longest_prompt: int) -> EstimatorShape:
        """Read it off a model without numbers.

        Args:
            config: Settings.
            vocabulary: Size of the policy's, which a fresh encoder takes over.
            longest_prompt: In the policy's tokens; a pretrained encoder may have more for the same
                text, so that `max_length` alone counts.

        Raises:
            ConfigError: `config.model` is no directory of an encoder.
        """
        with torch.device("meta"):
            encoder = (
                _pretrained(Path(config.model))
                if config.model
                else build_encoder(config, vocabulary)
            )
            model = DifficultyModel(encoder, config)
        frozen = config.encoder_lr_scale == 0
        settings: Any = encoder.config
        width, heads, layers = (
            settings.hidden_size,
            settings.num_attention_heads,
            settings.num_hidden_layers,
        )
        feed_forward = getattr(settings, "intermediate_size", None) or settings.hidden_dim
        dropout = getattr(settings, "attention_probs_dropout_prob", None) or getattr(
            settings, "attention_dropout", 0.0
        )
        tokens = config.max_length if config.model else min(config.max_length, longest_prompt)
        per_token = 4 * (8 * width + 2 * feed_forward) + (
            4 * (width + 3 * heads * tokens) if dropout else 0
        )
        activations = 0 if frozen else tokens * layers * per_token
        return cls(
            parameters=_size(model),
            trained=_size(model) - frozen * _size(encoder),
            activations=activations,
            texts_per_pass=max(1, config.tokens_per_pass // tokens),
        )


def _pretrained(directory: Path) -> Any:
    directory = directory / "encoder" if (directory / "encoder").is_dir() else directory
    if not (directory / "config.json").is_file():
        raise ConfigError(
            f"estimator.model: got {str(directory)!r}, expected the directory of a Hugging Face "
            f"encoder; it lacks config.json"
        )
    encoder = AutoModel.from_config(AutoConfig.from_pretrained(directory, local_files_only=True))  # type: ignore[no-untyped-call]
    if hasattr(encoder, "pooler"):
        encoder.register_module("pooler", None)
    return encoder


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
