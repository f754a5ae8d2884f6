"""The estimator as the sampler sees it: predict, update, save, restore."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedTokenizerBase

from depo.config import EstimatorConfig
from depo.estimator.features import FrozenFeatures
from depo.estimator.model import DifficultyModel, build_encoder
from depo.estimator.text import TextEncoder, load_tokenizer
from depo.estimator.training import (
    build_optimizer,
    check_batch,
    difficulty_loss,
    load_targets,
    optimizer_step,
)
from depo.sampler.keyed import derive_key
from depo.types.errors import StateError
from depo.types.records import Float32Array, Int64Array, TargetBatch

STATE_FORMAT = 1
HEADS_FILE = "heads.safetensors"
"""Trunk and heads of an exported estimator; its presence tells such a directory from a bare
encoder.
"""

SETTINGS_FILE = "estimator.json"
"""EstimatorConfig of an exported estimator."""

LOGIT_LIMIT = 15.0
"""Logits are clamped to this before the sigmoid: beyond about 17 it would round to exactly 1 in
float32.
"""


class BertDifficultyEstimator:
    """Predicts pass rates with an encoder that is trained online.

    (a `depo.types.protocols.DifficultyEstimator`).

    Initial weights are a function of `seed`, the dropout masks of an update one of (seed, version);
    torch's global generator is left untouched.
    """

    def __init__(
        self,
        config: EstimatorConfig,
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """Build the model.

        Args:
            config: Settings. With `model` set, encoder and tokenizer come from that directory,
                trunk and heads too if `save_pretrained` wrote it; else the encoder is a fresh BERT
                on `tokenizer`.
            tokenizer: The policy's tokenizer.
            seed: Source of every random number.
            device: Where the model lives.

        Raises:
            ConfigError: `config.model` is no directory, or has fewer positions than `max_length`.
            StateError: `config.model` holds heads of other sizes, or that were trained with another
                pooling.
        """
        saved = (
            Path(config.model)
            if config.model and (Path(config.model) / HEADS_FILE).is_file()
            else None
        )
        if saved:
            _check_pooling(saved, config)
            config = replace(config, model=str(saved / "encoder"))
        self._config = config
        self._seed = seed
        self._version = 0
        self._device = torch.device(device)
        tokenizer = load_tokenizer(config.model) if config.model else tokenizer
        self._text = TextEncoder(tokenizer, config.max_length, config.overflow)
        with _seeded(seed, "estimator/init", 0, self._device):
            self._model = DifficultyModel(build_encoder(config, len(tokenizer)), config).to(
                self._device
            )
        self._optimizer = build_optimizer(self._model, config)
        self._frozen = (
            FrozenFeatures(self._model, self._text, self._device)
            if config.encoder_lr_scale == 0
            else None
        )
        if saved:
            self._load_heads(saved / HEADS_FILE)

    @property
    def version(self) -> int:
        """Number of updates so far."""
        return self._version

    @torch.inference_mode()
    def predict(self, texts: Sequence[str]) -> Float32Array:
        """Return the predicted pass rate of each text, float32 [C] in (0, 1).

        Texts are scored in batches of similar length, so a text's last bits may depend on its
        company.
        """
        self._model.eval()
        predictions_C = np.empty(len(texts), np.float32)
        for chosen, pooled_MH in self._pooled_batches(texts):
            scores_M, _ = self._model(pooled_MH)
            predictions_C[chosen] = (
                torch.sigmoid(scores_M.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)).cpu().numpy()
            )
        return predictions_C

    def update(self, batches: Sequence[TargetBatch]) -> dict[str, float]:
        """Take one optimizer step per batch that is not empty, in order.

        A step whose loss or gradient is not finite is left out.

        Returns:
            Means over the steps taken (NaN if there was none): estimator/loss, score_loss,
                distill_loss, ranking_loss, grad_norm (before clipping).
            estimator/skipped_steps, how many were left out; estimator/overflow_share, share of
            prompts cut since the last update.

        Raises:
            ValueError: A batch has columns of different length or values out of range; nothing has
                been changed.
        """
        for batch in batches:
            check_batch(batch)
        self._model.train()
        with _seeded(self._seed, "estimator/dropout", self._version, self._device):
            steps = [self._step(batch) for batch in batches if len(batch.texts)]
        self._version += 1
        taken = [step for step in steps if np.isfinite(step["grad_norm"])]
        names = ("loss", "score_loss", "distill_loss", "ranking_loss", "grad_norm")
        metrics = {
            f"estimator/{name}": float(np.mean([step[name] for step in taken]))
            if taken
            else float("nan")
            for name in names
        }
        return metrics | {
            "estimator/skipped_steps": float(len(steps) - len(taken)),
            "estimator/overflow_share": self._text.take_overflow_share(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of weights, optimizer moments and counters.

        The optimizer's go by parameter name.
        """
        names = {id(parameter): name for name, parameter in self._model.named_parameters()}
        return {
            "format": STATE_FORMAT,
            "seed": self._seed,
            "version": self._version,
            "texts_seen": self._text.seen,
            "texts_overflowed": self._text.overflowed,
            "model": _copied(self._model.state_dict()),
            "optimizer": {
                names[id(parameter)]: _copied(moments)
                for parameter, moments in self._optimizer.state.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, the seed included.

        The continuation is the same bit for bit.

        Raises:
            StateError: Another format, missing or superfluous entries, or other shapes; nothing has
                been changed.
        """
        _check_state(state, self.state_dict(), {name for name, _ in self._model.named_parameters()})
        self._model.load_state_dict(
            {name: torch.as_tensor(tensor) for name, tensor in state["model"].items()}
        )
        names = {id(parameter): name for name, parameter in self._model.named_parameters()}
        groups = self._optimizer.state_dict()["param_groups"]
        ordered = [
            names[id(parameter)]
            for group in self._optimizer.param_groups
            for parameter in group["params"]
        ]
        moments = {
            index: _copied(state["optimizer"][name])
            for index, name in enumerate(ordered)
            if name in state["optimizer"]
        }
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if self._frozen:
            self._frozen.forget()
        self._seed, self._version = int(state["seed"]), int(state["version"])
        self._text.seen, self._text.overflowed = (
            int(state["texts_seen"]),
            int(state["texts_overflowed"]),
        )

    def save_pretrained(self, path: Path) -> None:
        """Write the model for use elsewhere.

        `encoder/` (a Hugging Face folder with tokenizer), `heads.safetensors`, `estimator.json`.
        """
        self._model.encoder.save_pretrained(path / "encoder")
        self._text.tokenizer.save_pretrained(str(path / "encoder"))
        heads = {
            name: tensor
            for name, tensor in self._model.state_dict().items()
            if not name.startswith("encoder.")
        }
        save_file(heads, path / HEADS_FILE)
        (path / SETTINGS_FILE).write_text(
            json.dumps(asdict(self._config), indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )

    @classmethod
    def from_pretrained(
        cls, path: Path, *, device: torch.device | str = "cpu"
    ) -> BertDifficultyEstimator:
        """Load what `save_pretrained` wrote: the same predictions, a fresh optimizer.

        Raises:
            StateError: The heads do not fit the settings.
        """
        config = replace(_load_settings(path), model=str(path))
        return cls(config, load_tokenizer(path / "encoder"), seed=0, device=device)

    def _load_heads(self, path: Path) -> None:
        state = self.state_dict()
        encoder = {
            name: tensor for name, tensor in state["model"].items() if name.startswith("encoder.")
        }
        self.load_state_dict({**state, "model": encoder | load_file(path)})

    def _pooled(self, texts: Sequence[str]) -> Tensor:
        if self._frozen:
            return torch.as_tensor(self._frozen(texts)).to(self._device)
        return self._model.pool(*self._text.pad(self._text.encode(texts), self._device))

    def _pooled_for_update(self, texts: Sequence[str]) -> Tensor:
        """Return pooled outputs [M, H], all of them together, for the ranking loss pairs any two.

        Beyond `tokens_per_pass` the encoder runs in parts, and once more for each part's backward
        pass instead of keeping what that needs, with the same
        dropout: gradients are those of one pass.
        """
        if self._frozen:
            return self._pooled(texts)
        rows = self._text.encode(texts)
        order = np.argsort([len(row) for row in rows], kind="stable")
        size = max(1, self._config.tokens_per_pass // len(rows[order[-1]]))
        if len(rows) <= size:
            return self._model.pool(*self._text.pad(rows, self._device))
        parts = [
            self._text.pad([rows[index] for index in order[start : start + size]], self._device)
            for start in range(0, len(rows), size)
        ]
        pooled_MH: Tensor = torch.cat(
            [checkpoint(self._model.pool, *part, use_reentrant=False) for part in parts]
        )
        return pooled_MH[torch.as_tensor(np.argsort(order), device=self._device)]

    def _pooled_batches(self, texts: Sequence[str]) -> Iterator[tuple[Int64Array, Tensor]]:
        """Yield positions and pooled outputs [M, H] until each text had its turn.

        At once if nothing is to be encoded, else in batches of similar length.
        """
        if self._frozen:
            yield np.arange(len(texts)), self._pooled(texts)
            return
        rows = self._text.encode(texts) if len(texts) else []
        order = np.argsort([len(row) for row in rows], kind="stable")
        for start in range(0, len(rows), self._config.predict_batch):
            chosen = order[start : start + self._config.predict_batch]
            yield (
                chosen,
                self._model.pool(*self._text.pad([rows[index] for index in chosen], self._device)),
            )

    def _step(self, batch: TargetBatch) -> dict[str, float]:
        scores_M, distills_M = self._model(self._pooled_for_update(batch.texts))
        terms = difficulty_loss(
            scores_M, distills_M, load_targets(batch, self._config, self._device), self._config
        )
        norm = optimizer_step(self._model, self._optimizer, terms.loss, self._config.grad_clip)
        values = {
            "loss": terms.loss,
            "score_loss": terms.score,
            "distill_loss": terms.distill,
            "ranking_loss": terms.ranking,
        }
        return {name: value.item() for name, value in values.items()} | {"grad_norm": norm}


@contextmanager
def _seeded(seed: int, purpose: str, counter: int, device: torch.device) -> Iterator[None]:
    """Run a block on torch generators seeded by the arguments.

    Also give the generators back as they were.
    """
    key = derive_key(seed, purpose, counter)
    cuda = (
        [torch.cuda.current_device() if device.index is None else device.index]
        if device.type == "cuda"
        else []
    )
    with torch.random.fork_rng(devices=cuda):
        for generator in [
            torch.default_generator,
            *(torch.cuda.default_generators[index] for index in cuda),
        ]:
            generator.manual_seed(key)
        yield


def _load_settings(path: Path) -> EstimatorConfig:
    settings = json.loads((path / SETTINGS_FILE).read_text(encoding="utf-8"))
    return EstimatorConfig(**{**settings, "trunk_sizes": tuple(settings["trunk_sizes"])})


def _check_pooling(path: Path, config: EstimatorConfig) -> None:
    """Unlike other sizes, another pooling would go unnoticed.

    The trunk would read what it was never trained on.
    """
    saved = _load_settings(path).pooling
    if config.pooling != saved:
        raise StateError(
            f"estimator.pooling: got {config.pooling!r}, expected {saved!r}, which {path} was "
            f"trained with"
        )


def _copied(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: torch.as_tensor(tensor).detach().to("cpu", copy=True)
        for name, tensor in tensors.items()
    }


def _check_state(state: Mapping[str, Any], own: Mapping[str, Any], parameters: set[str]) -> None:
    _check_names("estimator state", set(state), set(own))
    if state["format"] != STATE_FORMAT:
        raise StateError(
            f"estimator state: got format {state['format']!r}, expected {STATE_FORMAT}"
        )
    _check_names("estimator state, model", set(state["model"]), set(own["model"]))
    _check_names("estimator state, optimizer", set(state["optimizer"]) | parameters, parameters)
    shapes = {name: tuple(tensor.shape) for name, tensor in own["model"].items()}
    moments = [
        (name, tensor)
        for name, entries in state["optimizer"].items()
        for key, tensor in entries.items()
        if key != "step"
    ]
    for name, tensor in [*state["model"].items(), *moments]:
        if tuple(tensor.shape) != shapes[name]:
            raise StateError(
                f"estimator state, {name}: got shape {tuple(tensor.shape)}, expected "
                f"{shapes[name]}; it belongs to a model of other sizes"
            )


def _check_names(where: str, got: set[str], expected: set[str]) -> None:
    if got != expected:
        raise StateError(
            f"{where}: missing {sorted(expected - got)[:5]}, superfluous "
            f"{sorted(got - expected)[:5]}"
        )
