"""What the sampler and the trainer ask of their exchangeable parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from depo.types.records import BoolArray, Float32Array, Prompt, RolloutGroup, TargetBatch


class DifficultyEstimator(Protocol):
    """Predicts a prompt's pass rate from its text alone."""

    @property
    def version(self) -> int:
        """Number of updates so far; predictions of an older version are stale."""

    def predict(self, texts: Sequence[str]) -> Float32Array:
        """Return the predicted pass rate of each text, float32 [C] in (0, 1)."""

    def update(self, batches: Sequence[TargetBatch]) -> dict[str, float]:
        """Take one optimizer step per batch, in order, and return metrics named `estimator/...`."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything a bit-exact continuation needs.

        Scalars, strings, lists, numpy arrays, tensors, nested dicts of these.
        """

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            depo.types.errors.StateError: The state belongs to another model or version.
        """


class RolloutEngine(Protocol):
    """Generates responses with a stated version of the policy."""

    @property
    def policy_version(self) -> int:
        """Version of the weights that `generate` uses."""

    @property
    def max_prompt_tokens(self) -> int:
        """Longest prompt that `generate` takes."""

    def generate(
        self, prompts: Sequence[Prompt], group_size: int, keys: Sequence[int], *, temperature: float
    ) -> list[RolloutGroup]:
        """Return one group per prompt, in order.

        Args:
            prompts: B prompts.
            group_size: Responses per prompt, G >= 1.
            keys: B random keys (unsigned 64 bit). Response g of prompt b is a function of the
                weights, the prompt, keys[b] and g.
            temperature: Sampling temperature; 0 is greedy.
        """

    def load_weights(self, policy: Any, policy_version: int) -> None:
        """Take over the weights of `policy` (a transformers model) as `policy_version`."""


class RewardFunction(Protocol):
    """Judges responses."""

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], finished: BoolArray
    ) -> Float32Array:
        """Return one reward per response, float32 [N].

        NaN means unknown (verifier failure, timeout), never "wrong".

        Args:
            prompts: N prompts, one per response.
            responses: N decoded responses.
            finished: bool [N], False where the token budget cut the response.
        """

    def counters(self) -> dict[str, int]:
        """Return how often, since the start, a verdict stayed unknown, by cause."""

    def close(self) -> None:
        """End worker processes; calling it twice is fine."""


class AdvantageMask(Protocol):
    """Scales advantages of a group down, or to 0, before the loss sees them."""

    def __call__(
        self, group: RolloutGroup, rewards_G: Float32Array, advantages_G: Float32Array, /
    ) -> Float32Array | Sequence[Float32Array]:
        """Return a factor for each response, [G], or for each token, G arrays [T].

        Factors are finite and >= 0.

        Must be a pure function of its arguments for a run to be repeatable. A response that is left
        out still counts in the loss's denominators.

        Args:
            group: G responses.
            rewards_G: [G], NaN = unknown.
            advantages_G: [G], not all 0.
        """
