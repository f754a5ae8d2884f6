"""Split and join the responses of TRL's `_generate`, to replace single groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from accelerate.utils import gather_object
from torch import Tensor

from depo.types.records import Float32Array

PROMPT_IDS, COMPLETION_IDS, TOOL_MASK, COMPLETIONS, LOGPROBS = range(5)
"""Indices into the tuple that `_generate` returns.

It holds prompt ids, completion ids, tool mask, completions, log-probabilities, extra fields,
images, tool images.
"""

Generated = tuple[Any, ...]


class Rollout(NamedTuple):
    """One response.

    Attributes:
        entries: Its entry in each list that `_generate` returned.
        extras: Values that reward functions logged for it (`log_extra`).
    """

    entries: tuple[Any, ...]
    extras: dict[str, Any]


class RolledOutGroup(NamedTuple):
    """The G responses to a row, their rewards [G, F], and whether the rewards differ."""

    row: int
    rollouts: list[Rollout]
    rewards_GF: Tensor
    informative: bool


def gather_rollouts(generated: Generated, extras: Mapping[str, Sequence[Any]]) -> list[Rollout]:
    """Return the responses of all processes, in order; every process calls this.

    Args:
        generated: What `_generate` returned in this process, for n responses.
        extras: Column -> n values; columns of another length are left out.
    """
    n = len(generated[PROMPT_IDS])
    lists = [column for column in generated if _is_per_response(column)]
    logged = {name: values for name, values in extras.items() if len(values) == n}
    local = [
        Rollout(entries, {name: values[i] for name, values in logged.items()})
        for i, entries in enumerate(zip(*lists, strict=True))
    ]
    gathered: list[Rollout] = gather_object(local)
    return gathered


def mean_logprobs(generated: Generated, group_size: int) -> Float32Array | None:
    """Return each group's mean token log-probability over its responses, float32 [B].

    The groups are those of all processes; every process calls this. Tokens written by tools are
    left out.

    Args:
        generated: What `_generate` returned in this process. Only vLLM and rollout functions return
            log-probabilities.
        group_size: Responses of a group.

    Returns:
        NaN for a group without any log-probability; None if none are returned at all.
    """
    if generated[LOGPROBS] is None:
        return None
    masks = generated[TOOL_MASK] or [[1] * len(values) for values in generated[LOGPROBS]]
    pairs = zip(generated[LOGPROBS], masks, strict=True)
    known = [
        [
            value
            for value, own in zip(values, mask, strict=True)
            if own and value is not None and not math.isnan(value)
        ]
        for values, mask in pairs
    ]
    means_N = gather_object(
        [math.fsum(values) / len(values) if values else math.nan for values in known]
    )
    means_BG = np.array(means_N, np.float32).reshape(-1, group_size)
    counts_B = (~np.isnan(means_BG)).sum(axis=1)
    means_B: Float32Array = np.divide(
        np.nansum(means_BG, axis=1),
        counts_B,
        out=np.full(len(means_BG), np.nan, np.float32),
        where=counts_B > 0,
    )
    return means_B


def join_rollouts(
    rollouts: Sequence[Rollout], template: Generated
) -> tuple[Generated, dict[str, list[Any]]]:
    """Return what `_generate` and `log_extra` would have given for these responses.

    Args:
        rollouts: This process's responses, at least one.
        template: What `_generate` returned for other responses. Its lists are replaced; its other
            parts are passed on.
    """
    lists = iter(zip(*(rollout.entries for rollout in rollouts), strict=True))
    joined = tuple(list(next(lists)) if _is_per_response(column) else column for column in template)
    names = sorted({name for rollout in rollouts for name in rollout.extras})
    return joined, {name: [rollout.extras.get(name) for rollout in rollouts] for name in names}


def _is_per_response(column: object) -> bool:
    """Return whether a part is a list with one entry per response.

    Absent parts are None, or empty if no tool was called.
    """
    return isinstance(column, list) and bool(column)
