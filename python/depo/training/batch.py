"""What was rolled out for one training step.

Also how it waits in a checkpoint for a step that is still to come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from depo.types.errors import StateError
from depo.types.records import (
    Draw,
    DrawKind,
    JudgedGroup,
    Prompt,
    RolloutGroup,
    Verdict,
    VerdictStatus,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedBatch:
    """Every group that was rolled out for one training step.

    Attributes:
        rounds: Groups in the order of their draws, one list per round of draws.
        metrics: What selection, reward and, where it worked meanwhile, the estimator reported.
    """

    rounds: list[list[JudgedGroup]]
    metrics: Mapping[str, float]

    @property
    def groups(self) -> list[JudgedGroup]:
        """The groups of all rounds."""
        return [group for judged in self.rounds for group in judged]

    def policy_lag(self, policy_version: int) -> int:
        """Return how many versions the oldest rollout is behind `policy_version`.

        0 if there is none.
        """
        return max(
            (policy_version - group.rollouts.policy_version for group in self.groups), default=0
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the prompts themselves, whose ids stand for them."""
        return {
            "rounds": [[_group_state(group) for group in judged] for judged in self.rounds],
            "metrics": dict(self.metrics),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], prompts: Sequence[Prompt]) -> CollectedBatch:
        """Return the batch that `state_dict` described, of these `prompts` or fewer.

        Raises:
            StateError: A prompt of the batch is not among them.
        """
        by_id = {prompt.id: prompt for prompt in prompts}
        return cls(
            rounds=[[_group(group, by_id) for group in judged] for judged in state["rounds"]],
            metrics=state["metrics"],
        )


def _values(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _group_state(group: JudgedGroup) -> dict[str, Any]:
    draw = _values(group.draw) | {"prompt": group.draw.prompt.id}
    return {
        "draw": draw,
        "rollouts": _values(group.rollouts),
        "rewards_G": group.rewards_G,
        "verdict": _values(group.verdict),
    }


def _group(state: Mapping[str, Any], prompts: Mapping[str, Prompt]) -> JudgedGroup:
    draw, rollouts, verdict = state["draw"], state["rollouts"], state["verdict"]
    if draw["prompt"] not in prompts:
        raise StateError(
            f"waiting batch: got rollouts of prompt {draw['prompt']!r}, which is not in the pool, "
            f"expected the data that it was drawn from"
        )
    tuples = {
        name: tuple(rollouts[name]) for name in ("response_ids", "rollout_logprobs", "responses")
    }
    return JudgedGroup(
        draw=Draw(**draw | {"prompt": prompts[draw["prompt"]], "kind": DrawKind(draw["kind"])}),
        rollouts=RolloutGroup(**rollouts | tuples),
        rewards_G=state["rewards_G"],
        verdict=Verdict(**verdict | {"status": VerdictStatus(verdict["status"])}),
    )
