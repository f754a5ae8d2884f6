"""The GRPO learner: one policy, one AdamW, one `update` per training step."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from depo.config import LossConfig, OptimizerConfig, PolicyConfig
from depo.rollout.precision import mixed_precision
from depo.training.learner.checks import check_mismatch, check_reference, require_finite
from depo.training.learner.losses import (
    TokenLoss,
    k3_kl,
    policy_loss,
    sequence_weights,
    token_entropy,
    token_logprobs,
    truncated_weights,
)
from depo.training.learner.moments import load_moments, moments_of
from depo.training.learner.packing import (
    TrainBatch,
    TrainSequence,
    collate,
    flatten_groups,
    microbatches,
    response_logits,
)
from depo.training.learner.update_sums import UpdateSums, means
from depo.types.errors import StateError
from depo.types.records import Float32Array, RolloutGroup, TokenFactors

STATE_VERSION = 1


class PolicyLearner:
    """Train a causal language model on rollout groups with a clipped policy-gradient loss.

    GRPO, Dr. GRPO, DAPO, GSPO and CISPO.

    The model is trained in place and always runs without dropout, so that the importance ratio
    measures the policy and not noise.

    Attributes:
        model: The policy.
        optimizer: AdamW on its trainable parameters.

    Args:
        model: Hugging Face causal LM; its own dtype is that of the master weights.
        loss: Surrogate, clipping, aggregation, KL weight.
        optimizer: AdamW, warm-up, gradient clipping, minibatches, micro-batch size.
        policy: Uses `autocast` and `gradient_checkpointing`.
        max_new_tokens: Token budget of a response, the denominator of aggregation "constant" [>=
            1].
        temperature: Temperature at which the responses were sampled [> 0].
        pad_token_id: Token put on the right of shorter sequences; any valid one.
        reference_model: Policy that `kl_weight` pulls towards; needed if and only if that is above
            0.
        device: Where to train.
        max_logprob_mismatch: Largest mean |rollout - learner| log-prob before the first optimizer
            step of an update, in nats [> 0].

    Raises:
        ValueError: `loss.kl_weight` and `reference_model` contradict each other, or nothing is
            trainable.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        loss: LossConfig,
        optimizer: OptimizerConfig,
        policy: PolicyConfig,
        max_new_tokens: int,
        temperature: float,
        pad_token_id: int,
        reference_model: PreTrainedModel | None = None,
        device: torch.device | str = "cpu",
        max_logprob_mismatch: float = math.inf,
    ) -> None:
        check_reference(loss, reference_model)
        for module in filter(None, (model, reference_model)):
            module.to(device)  # type: ignore[arg-type]
            module.train(False)
        self.model, self._reference_model = model, reference_model
        named = model.named_parameters()
        self._parameters = {name: each for name, each in named if each.requires_grad}
        if not self._parameters:
            raise ValueError("model: got no trainable parameter, expected at least 1")
        self._loss_config, self._optimizer_config = loss, optimizer
        self._max_new_tokens, self._temperature = max_new_tokens, temperature
        self._pad_token_id = pad_token_id
        self._device, self._max_logprob_mismatch = torch.device(device), max_logprob_mismatch
        self._autocast, self._checkpointing = policy.autocast, policy.gradient_checkpointing
        if self._checkpointing:
            _enable_checkpointing(model)
        self.optimizer = torch.optim.AdamW(
            self._parameters.values(),
            lr=optimizer.learning_rate,
            betas=optimizer.betas,
            weight_decay=optimizer.weight_decay,
        )

    def update(
        self,
        groups: Sequence[RolloutGroup],
        advantages_BG: Float32Array,
        *,
        step: int,
        policy_lag: int = 0,
        token_factors: TokenFactors | None = None,
    ) -> dict[str, float]:
        """Train on B groups.

        `minibatches` optimizer steps, each on its own share of the groups, in order.

        The rollout log-probs are the old policy of every ratio; with `loss.rollout_correction`
        truncate the learner's own are, as they are before the first optimizer step, and each
        token's advantage is multiplied by its truncated weight learner / rollout. Each minibatch's
        denominators count all of its sequences and tokens, also those that need no forward pass
        because their advantage is 0 and no KL term acts on them. A minibatch without any other
        sequence takes no optimizer step.

        Args:
            groups: B >= 0 groups of G responses each.
            advantages_BG: [B, G], finite.
            step: Training step, from 0; the learning rate is a function of it.
            policy_lag: Versions by which the rollouts are older than this policy [>= 0]. Above 0
                their mismatch has no limit: it is what was learned since.
            token_factors: [B][G] arrays float32 [T], what the advantage of each token is multiplied
                by; None: 1.

        Returns:
            `policy/lr`, `policy/updated` (1.0 if any optimizer step was taken) and
            `policy/trained_sequences`; if updated, also loss and grad_norm (before clipping; means
            over optimizer steps), clip_share, ratio_mean, kl (k3 estimate of rollout policy against
            policy), entropy (nats) and, with a reference, reference_kl, with the correction
            rollout_weight and rollout_weight_capped (means over trained tokens), and
            logprob_mismatch: mean |rollout - policy| log-prob before the first optimizer step.

        Raises:
            ValueError: Groups and advantages do not fit.
            RuntimeError: Loss or gradient is not finite, or the mismatch is above
                `max_logprob_mismatch`; that optimizer step was not taken.
        """
        advantages_BG = np.asarray(advantages_BG, np.float32)
        sequences = flatten_groups(groups, advantages_BG, token_factors)
        learning_rate = self._set_learning_rate(step)
        n_parts = self._optimizer_config.minibatches
        bounds = [
            len(groups) * part // n_parts * advantages_BG.shape[1] for part in range(n_parts + 1)
        ]
        sums = UpdateSums()
        with self._training():
            if self._loss_config.rollout_correction == "truncate" and n_parts > 1:
                sequences = self._with_learner_logprobs(sequences)
            for start, end in itertools.pairwise(bounds):
                self._optimizer_step(sequences[start:end], sums, step, policy_lag)
        metrics = {
            "lr": learning_rate,
            "updated": float(sums.steps is not None),
            "trained_sequences": float(sums.sequences or 0),
        }
        if sums.steps:
            metrics |= means(self._totals(sums.known()))
        return {f"policy/{name}": value for name, value in metrics.items()}

    def _optimizer_step(
        self, sequences: Sequence[TrainSequence], sums: UpdateSums, step: int, policy_lag: int
    ) -> None:
        """Accumulate the gradient of one minibatch, check it, apply it, and add to the sums."""
        weights = self._weights(sequences)
        trained = self._trained(sequences)
        if not trained:
            return
        self.optimizer.zero_grad(set_to_none=True)
        loss_total = torch.zeros((), device=self._device)
        for rows, batch in self._batches(sequences, trained, weights):
            loss = self._batch_loss(batch, sums if rows else UpdateSums(steps=sums.steps))
            loss.backward()  # type: ignore[no-untyped-call]
            loss_total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(
            self._parameters.values(), self._optimizer_config.grad_clip
        )
        grad_norm = float(self._whole(norm))
        require_finite("loss", self._totals({"loss": loss_total})["loss"], step)
        require_finite("gradient norm", grad_norm, step)
        if not sums.steps and not policy_lag:
            check_mismatch(self._totals(sums.known()), step, self._max_logprob_mismatch)
        self.optimizer.step()
        sums.add(loss=float(loss_total), grad_norm=grad_norm, steps=1, sequences=len(trained))

    def _trained(self, sequences: Sequence[TrainSequence]) -> list[int]:
        """Return the sequences with an advantage, or all with a token if there is a reference."""
        always = self._reference_model is not None
        rows = enumerate(sequences)
        return [i for i, s in rows if s.response_length > 0 and (s.advantages.any() or always)]

    def _batches(
        self, sequences: Sequence[TrainSequence], trained: Sequence[int], weights: Sequence[float]
    ) -> Iterator[tuple[list[int], TrainBatch]]:
        """Yield micro-batches of the sequences `trained`, each with the rows that count: here all.

        This and the next three are `ShardedLearner`'s to change.
        """
        for chosen in microbatches(
            [sequences[row].token_ids.size for row in trained],
            self._optimizer_config.tokens_per_microbatch,
        ):
            rows = [trained[index] for index in chosen]
            yield (
                rows,
                collate(
                    [sequences[row] for row in rows],
                    [weights[row] for row in rows],
                    pad_token_id=self._pad_token_id,
                    device=self._device,
                ),
            )

    def _totals(self, sums: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Return sums over all that train the same policy: this learner alone."""
        return {name: float(total) for name, total in sums.items()}

    def _all_rows(self, rows: dict[int, Float32Array]) -> dict[int, Float32Array]:
        """Return values by row over all that train the same policy: those of this learner."""
        return rows

    def _whole(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the policy's, of which this learner holds all."""
        return tensor

    @torch.no_grad()
    def _with_learner_logprobs(self, sequences: Sequence[TrainSequence]) -> list[TrainSequence]:
        """Note what the learner, as it is now, says of every token that will be trained on."""
        noted: dict[int, Float32Array] = {}
        for rows, batch in self._batches(
            sequences, self._trained(sequences), [0.0] * len(sequences)
        ):
            logprobs_L = (
                token_logprobs(
                    self._logits(self.model, batch), batch.target_ids_L, self._temperature
                )
                .float()
                .cpu()
            )
            parts = torch.split(logprobs_L, batch.lengths_N.tolist())
            noted.update((row, part.numpy()) for row, part in zip(rows, parts, strict=False))
        noted = self._all_rows(noted)
        return [
            replace(sequence, learner_logprobs=noted.get(row))
            for row, sequence in enumerate(sequences)
        ]

    def _weights(self, sequences: Sequence[TrainSequence]) -> list[float]:
        """Weigh each sequence of a minibatch by the minibatch's own denominators."""
        lengths = [sequence.response_length for sequence in sequences]
        lengths_N = torch.tensor(lengths, dtype=torch.int64)
        counts = {
            "n_sequences": len(sequences),
            "n_tokens": int(lengths_N.sum()),
            "max_new_tokens": self._max_new_tokens,
        }
        aggregation = self._loss_config.aggregation
        weights: list[float] = sequence_weights(lengths_N, aggregation, **counts).tolist()
        return weights

    def _batch_loss(self, batch: TrainBatch, sums: UpdateSums) -> Tensor:
        """Return this micro-batch's part of the loss."""
        config = self._loss_config
        logits_LV = self._logits(self.model, batch)
        logprobs_L = token_logprobs(logits_LV, batch.target_ids_L, self._temperature)
        old_logprobs_L, advantages_L = batch.rollout_logprobs_L, batch.advantages_L
        if config.rollout_correction == "truncate":
            # What is not noted is what this very pass says: nothing has moved yet.
            old_logprobs_L = (
                logprobs_L.detach()
                if batch.learner_logprobs_L is None
                else batch.learner_logprobs_L
            )
            rollout_weights_L = truncated_weights(
                old_logprobs_L, batch.rollout_logprobs_L, config.rollout_correction_cap
            )
            advantages_L = advantages_L * rollout_weights_L
            capped_L = rollout_weights_L >= config.rollout_correction_cap
            sums.add(rollout_weight=rollout_weights_L.sum(), rollout_weight_capped=capped_L.sum())
        token_loss = policy_loss(logprobs_L, old_logprobs_L, advantages_L, batch.lengths_N, config)
        loss_L = token_loss.loss_L
        if self._reference_model is not None:
            with torch.no_grad():
                reference_logprobs_L = token_logprobs(
                    self._logits(self._reference_model, batch),
                    batch.target_ids_L,
                    self._temperature,
                )
            reference_kl_L = k3_kl(logprobs_L, reference_logprobs_L)
            loss_L = loss_L + config.kl_weight * reference_kl_L
            sums.add(reference_kl=reference_kl_L.detach().sum())
        self._add_statistics(batch, logits_LV, logprobs_L, token_loss, sums)
        return (loss_L * batch.weights_L).sum()

    @torch.no_grad()
    def _add_statistics(
        self,
        batch: TrainBatch,
        logits_LV: Tensor,
        logprobs_L: Tensor,
        token_loss: TokenLoss,
        sums: UpdateSums,
    ) -> None:
        """Add this micro-batch's tokens to the sums behind the metrics."""
        n_tokens = batch.target_ids_L.numel()
        if not sums.steps:
            mismatch = (batch.rollout_logprobs_L - logprobs_L).abs().sum()
            sums.add(logprob_mismatch=mismatch, first_tokens=n_tokens)
        sums.add(
            tokens=n_tokens,
            ratio_mean=token_loss.ratio_L.sum(),
            clip_share=token_loss.clipped_L.sum(),
            kl=k3_kl(batch.rollout_logprobs_L, logprobs_L).sum(),
            entropy=token_entropy(logits_LV, self._temperature).sum(),
        )

    def _logits(self, model: PreTrainedModel, batch: TrainBatch) -> Tensor:
        """Return the logits [L, V] that predict the response tokens."""
        with mixed_precision(self._autocast, self._device):
            return response_logits(model, batch)

    def _set_learning_rate(self, step: int) -> float:
        """Linear warm-up to the peak over `warmup_steps`, then constant."""
        if step < 0:
            raise ValueError(f"step: got {step}, expected at least 0")
        learning_rate = self._optimizer_config.learning_rate * min(
            1.0, (step + 1) / max(1, self._optimizer_config.warmup_steps)
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        return learning_rate

    @contextlib.contextmanager
    def _training(self) -> Iterator[None]:
        """Dropout stays off.

        Checkpointed layers, which only act in training mode, are switched one by one without their
        children.
        """
        self.model.train(False)
        for module in self.model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = self._checkpointing
        try:
            with torch.enable_grad():
                yield
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            self.model.train(False)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's moments by parameter name.

        Like torch's own, the tensors are the live ones. The model's weights are not in it.
        """
        return {"version": STATE_VERSION, "moments": moments_of(self.optimizer, self._parameters)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        With the same weights the continuation is bit for bit the same.

        Raises:
            StateError: Another version, or moments of parameters that this model does not have or
                has in another shape.
        """
        if state.get("version") != STATE_VERSION:
            raise StateError(
                f"learner state version: got {state.get('version')!r}, expected {STATE_VERSION}"
            )
        load_moments(self.optimizer, self._parameters, state["moments"])


def _enable_checkpointing(model: PreTrainedModel) -> None:
    # The second is the name before transformers 5.20.
    new = getattr(model, "activation_checkpointing_enable", None)
    enable = new or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
