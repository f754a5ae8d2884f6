"""The network: encoder, trunk, score head and distillation head (DEPO, arXiv 2602.06375)."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, BertModel, PreTrainedModel

from depo.config import EstimatorConfig
from depo.types.errors import ConfigError

TRUNK_STD = 0.02
HEAD_STD = 0.001
"""Standard deviation of the heads' initial weights: so small that the first prediction is 0.5 for
every prompt.
"""

logger = logging.getLogger(__name__)


class ResidualBlock(nn.Module):
    """GELU(x + f(x)) with f = Linear, LayerNorm, GELU, dropout, Linear, LayerNorm."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.LayerNorm(width),
        )

    def forward(self, x_MH: Tensor) -> Tensor:
        """Map float32 [M, width] to the same shape."""
        return nn.functional.gelu(x_MH + self.inner(x_MH))


class DifficultyModel(nn.Module):
    """Predict the logits of a pass rate and of exp(mean token log-probability).

    The encoder turns token ids of a prompt into positions, of which `pool` makes one vector.

    Float32 throughout: the small steps of AdamW vanish in bfloat16 weights.
    """

    def __init__(self, encoder: PreTrainedModel, config: EstimatorConfig) -> None:
        """Put a fresh trunk and heads on `encoder`, drawn from torch's global generator."""
        super().__init__()
        wide, narrow = config.trunk_sizes
        self.encoder = encoder
        self.trunk = nn.Sequential(
            nn.Linear(encoder.config.hidden_size, wide),
            nn.LayerNorm(wide),
            nn.GELU(),
            ResidualBlock(wide, config.trunk_dropout),
            ResidualBlock(wide, config.trunk_dropout),
            nn.Linear(wide, narrow),
            nn.LayerNorm(narrow),
            nn.GELU(),
            nn.Dropout(config.trunk_dropout),
        )
        self.score_head = nn.Linear(narrow, 1)
        self.distill_head = nn.Linear(narrow, 1)
        self._pooling = config.pooling
        for module in self.trunk.modules():
            if isinstance(module, nn.Linear):
                _initialise(module, TRUNK_STD)
        _initialise(self.score_head, HEAD_STD)
        _initialise(self.distill_head, HEAD_STD)
        self.float()

    def pool(self, ids_MT: Tensor, mask_MT: Tensor) -> Tensor:
        """Return what the trunk reads of each prompt, float32 [M, H].

        Args:
            ids_MT: int64 [M, T] token ids.
            mask_MT: int64 [M, T], 1 where there is a token.
        """
        hidden_MTH = self.encoder(input_ids=ids_MT, attention_mask=mask_MT).last_hidden_state
        return hidden_MTH[:, 0] if self._pooling == "cls" else _masked_mean(hidden_MTH, mask_MT)

    def forward(self, pooled_MH: Tensor) -> tuple[Tensor, Tensor]:
        """Return score logits and distillation logits of pooled prompts, two float32 [M]."""
        features_MH = self.trunk(pooled_MH)
        return self.score_head(features_MH).squeeze(-1), self.distill_head(features_MH).squeeze(-1)


def build_encoder(config: EstimatorConfig, vocabulary: int) -> PreTrainedModel:
    """Load the encoder that `config.model` names, or initialize a fresh BERT.

    A fresh one has the configured sizes and is drawn from torch's global generator.

    Raises:
        ConfigError: The encoder has fewer positions than `max_length`.
    """
    if not config.model:
        if config.encoder_lr_scale == 0:
            logger.warning(
                "estimator.encoder_lr_scale is 0 without estimator.model: an encoder with random "
                "weights is never trained"
            )
        return BertModel(
            BertConfig(
                vocab_size=vocabulary,
                hidden_size=config.hidden_size,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.feed_forward,
                max_position_embeddings=config.max_length,
                type_vocab_size=1,
                pad_token_id=None,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            ),
            add_pooling_layer=False,
        )
    encoder: PreTrainedModel = AutoModel.from_pretrained(
        config.model, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    if hasattr(encoder, "pooler"):
        encoder.register_module("pooler", None)  # its output is not used
    positions = getattr(encoder.config, "max_position_embeddings", config.max_length)
    if positions < config.max_length:
        raise ConfigError(
            f"estimator.max_length: got {config.max_length}, expected at most {positions}, the "
            f"positions of {config.model}"
        )
    return encoder


def _masked_mean(hidden_MTH: Tensor, mask_MT: Tensor) -> Tensor:
    weights_MT1 = mask_MT[..., None].to(hidden_MTH.dtype)
    return (hidden_MTH * weights_MT1).sum(1) / weights_MT1.sum(1)


def _initialise(linear: nn.Linear, std: float) -> None:
    nn.init.normal_(linear.weight, std=std)
    nn.init.zeros_(linear.bias)
