"""Typed face of the Rust core (crates/depo_sampler).

Prompt indices are int64 positions in the pool; every array is C-contiguous and one-dimensional
unless said otherwise.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "DiscountedCounts",
    "Sampler",
    "TextColumn",
    "ThompsonSampler",
    "WeightedSampler",
    "build_profile",
    "content_ids",
    "derive_key",
    "group_advantages",
    "in_window",
    "nearest",
    "rule_traits",
    "top",
    "uniforms",
]

build_profile: str
"""release or debug."""

def content_ids(texts: Sequence[str]) -> NDArray[np.uint64]:
    """XXH3-64 of each text."""

@final
class TextColumn:
    """Texts as Arrow or NumPy holds them, checked once and read where they lie.

    Nobody may write to the buffers from then on.

    Args:
        chunks: Of each chunk utf8, uint8, and offsets, int32 or int64 [n + 1]: text i is
            `utf8[offsets[i] : offsets[i + 1]]`. Neither is copied.

    Raises:
        ValueError: An array is of another type or not contiguous, offsets fall or leave utf8, or a
            text is no UTF-8; the message names the row.
    """

    def __new__(
        cls, chunks: Sequence[tuple[NDArray[np.uint8], NDArray[np.int32] | NDArray[np.int64]]]
    ) -> Self: ...
    def __len__(self) -> int: ...
    def texts(self, rows: ArrayLike) -> list[str]:
        """Texts at int64 positions.

        Raises:
            IndexError: A position is out of range.
        """

    def content_ids(self) -> NDArray[np.uint64]:
        """XXH3-64 of each text, as `content_ids` of the strings.

        These are ids: an empty one is a ValueError.
        """

    def prompt_ids(
        self,
        answers: Self | None,
        answers_are_json: bool,
        sources: NDArray[np.uint32],
        source_names: Sequence[str],
    ) -> NDArray[np.uint64]:
        """`content_ids` of the ids that `depo.types.records.Prompt` makes of these texts.

        Args:
            answers: Ground truth of each; None: no prompt has one.
            answers_are_json: Whether they are JSON as `json.dumps(..., sort_keys=True,
                ensure_ascii=False)` writes it, instead of strings.
            sources: Position of each prompt's source in `source_names`.
            source_names: Names of the sources.
        """

def rule_traits() -> dict[str, tuple[bool, bool, bool]]:
    """Name of each rule -> whether it compares candidates, can search the pool, reads text."""

def derive_key(seed: int, purpose: str, parts: Sequence[int]) -> int:
    """Random key (unsigned 64 bit).

    A pure function of its arguments, the same on every platform.
    """

def uniforms(keys: ArrayLike, first: int, count: int) -> NDArray[np.float64]:
    """Draw numbers first .. first + count - 1 of each key, float64 [len(keys), count].

    Uniform in [0, 1).
    """

def group_advantages(
    rewards: ArrayLike,
    *,
    scale_by_std: bool = True,
    ddof: int = 1,
    epsilon: float = 1e-6,
    tolerance: float = 1e-6,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
    """Advantages of reward groups (GRPO, arXiv 2402.03300).

    Args:
        rewards: float32 [B, G]; NaN = unknown, left out of mean and deviation, advantage 0.
        scale_by_std: (r - mean) / (std + epsilon); else r - mean (Dr. GRPO).
        ddof: 0 or 1, degrees of freedom taken off in the standard deviation.
        epsilon: Added to the standard deviation.
        tolerance: max - min of the known rewards at or below it: uninformative, advantages exactly
            0.

    Returns:
        advantages float32 [B, G]; informative bool [B]; mean of the known rewards float32 [B] (NaN
        where none is known).
    """

def top(scores: ArrayLike, count: int) -> NDArray[np.int64]:
    """Positions of the `count` greatest scores, best first.

    Of equal scores the earlier position is better.

    One pass over the scores, which are not copied if they are a contiguous float32 array.

    Args:
        scores: float32 [N] in any unit; NaN: never among them.
        count: Positions wanted [>= 0]; fewer come back if fewer scores are numbers.
    """

def nearest(scores: ArrayLike, target: float, count: int) -> NDArray[np.int64]:
    """Positions of the `count` scores nearest to a finite target, nearest first.

    Otherwise as `top`.
    """

def in_window(
    scores: ArrayLike,
    low: float,
    high: float,
    count: int,
    draw: int,
    *,
    seed: int,
    explore_share: float = 0.1,
) -> NDArray[np.int64]:
    """Distinct positions drawn uniformly among the scores within low..high.

    Also a few among the others (DEPO's window, arXiv 2602.06375).

    First come those inside, then round(explore_share * count) of the others, each in random order;
    where one side has too few, the other fills up. Takes O(count / share of the scores that are
    inside) time, and one pass if few are.

    Args:
        scores: float32 [N] in any unit; NaN: never drawn.
        low: Least score inside.
        high: Greatest score inside, >= low.
        count: Positions wanted [>= 0]; fewer come back if fewer scores are numbers.
        draw: Number of the draw (a step, for example): the positions are a function of seed, this
            number, the scores and the other arguments.
        seed: 0 <= seed < 2**64.
        explore_share: Share of the count that is drawn outside, within 0..1.

    Raises:
        ValueError: An argument is out of its range.
    """

@final
class WeightedSampler:
    """Draws by weight over pools of millions, without replacement within a draw.

    Weights change a few at a time.

    A sum tree of cache lines: a draw of n costs O(n log N) time, an update likewise, and the tree
    4.3 bytes per position.

    Args:
        weights: float32 [N] within 0..1e28, in any unit; 0: never drawn.
        seed: Seed of every draw, 0 <= seed < 2**64.

    Raises:
        ValueError: A weight is out of its range.
    """

    def __new__(cls, weights: ArrayLike, *, seed: int) -> Self: ...
    def sample(
        self, count: int, draw: int, *, exclude: ArrayLike | None = None
    ) -> NDArray[np.int64]:
        """Draw distinct positions.

        Each with the probability of its weight among those that are left; in the order drawn.

        Args:
            count: Positions wanted [>= 0]; fewer come back only if fewer have weight.
            draw: Number of the draw (a step, for example): the positions are a function of seed,
                this number and the present weights.
            exclude: int64 positions that are not to be drawn, those in flight for example.
        """

    def update(self, positions: ArrayLike, weights: ArrayLike) -> None:
        """Change the weights at int64 positions [B] to float32 [B].

        Where a position is named twice, the last counts.

        Raises:
            ValueError: A weight is out of its range; nothing has changed then.
            IndexError: So is a position; likewise.
        """

@final
class ThompsonSampler:
    """Thompson sampling over pools of millions.

    The prompts whose draw from Beta(alpha, beta) is nearest to a target pass rate (MoPPS, arXiv
    2507.04632).

    Exactly that distribution, up to the resolution of float32, without a draw for each prompt: the
    distance of a prompt's draw is the first point of a Poisson process with its hazard, and the
    points of all prompts are drawn in order of distance from a sum tree of bounds, by thinning. A
    sample of n costs O(n log N) time, an update likewise, and a prompt takes 16.3 bytes. Where that
    would need more points than N / 4, or distances beyond sqrt(target (1 - target)) / 32 (small
    pools, or few prompts that can be near), the rest is found by a draw for each prompt, given what
    is known
    already: exact as well, in O(N).

    Args:
        alpha: float32 [N] within 1..10000: 1 + successes, say.
        beta: float32 [N] likewise: 1 + failures.
        target: Pass rate that is looked for, within 0.001..0.999.
        seed: Seed of every draw, 0 <= seed < 2**64.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __new__(
        cls, alpha: ArrayLike, beta: ArrayLike, *, target: float = 0.5, seed: int
    ) -> Self: ...
    def sample(
        self, count: int, draw: int, *, exclude: ArrayLike | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Draw a pass rate for every prompt and return the nearest to the target, nearest first.

        Args:
            count: Positions wanted [>= 0]; fewer come back only if there are fewer.
            draw: Number of the draw (a step, for example): the result is a function of seed, this
                number and the present alpha and beta.
            exclude: int64 positions that are left out, those in flight for example.

        Returns:
            positions int64 [count], all different; their pass rates as drawn, float64 [count].
        """

    def update(self, positions: ArrayLike, alpha: ArrayLike, beta: ArrayLike) -> None:
        """Change alpha and beta at int64 positions [B] to float32 [B] each.

        Where a position is named twice, the last counts.

        Raises:
            ValueError: A number is out of its range; nothing has changed then.
            IndexError: So is a position; likewise.
        """

@final
class DiscountedCounts:
    """Successes and failures of millions of prompts that fade as the policy changes.

    A Beta posterior of each pass rate, in 16 bytes per prompt.

    What was counted at policy version v has the weight decay ** (w - v) at version w. A prompt's
    counts are worked on when it is updated or asked for.

    Args:
        size: Number of prompts, below 2**32.
        decay: Weight kept from one policy version to the next, within 0..1; 1: nothing fades.
        alpha: Alpha of a prompt without counts, > 0; successes are added to it.
        beta: Beta likewise, for failures.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __new__(cls, size: int, *, decay: float, alpha: float = 1.0, beta: float = 1.0) -> Self: ...
    def update(
        self, positions: ArrayLike, successes: ArrayLike, rollouts: ArrayLike, policy_version: int
    ) -> None:
        """Add groups of one policy version; those of a position named twice add up.

        Late groups fade as if they had come in time.

        Args:
            positions: int64 [B].
            successes: float32 [B] within 0..rollouts; fractions are allowed.
            rollouts: float32 [B], at most 10000.
            policy_version: Version that generated them, 0 <= policy_version < 2**32.

        Raises:
            ValueError: A number is out of its range; nothing has changed then.
            IndexError: So is a position; likewise.
        """

    def shapes(
        self, policy_version: int, positions: ArrayLike | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Alpha and beta, float32 [B] each, at a policy version.

        (that of a prompt's newest group if it is newer), of all prompts or int64 positions [B].

        Raises:
            IndexError: A position is out of its range.
        """

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Copy of the counts: successes and failures float32 [N], versions uint32 [N]."""

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Continue from what `state_dict` returned for as many prompts.

        Raises:
            StateError: The state is unusable; nothing has changed then.
        """

@final
class Sampler:
    """Prompt pool, beliefs, selection rule, buffer and target replay as one state machine.

    One clock: policy_version.
    """

    def __new__(
        cls,
        ids: ArrayLike,
        sources: ArrayLike,
        *,
        group_size: int,
        seed: int,
        rule: str,
        rule_options: Mapping[str, float],
        warmup_steps: int,
        window: tuple[float, float],
        candidates_per_draw: int,
        explore_share: float,
        explore_by: str = "uniform",
        candidates_from: str = "epoch",
        min_age: int | None = None,
        max_age: int,
        probe_rollouts: int,
        reprobe_share: float,
        source_floors: ArrayLike,
        scan_cap: int,
        use_history: bool,
        belief: str,
        belief_options: Mapping[str, float],
        fit_belief: bool,
        success_threshold: float,
        tolerance: float,
        replay_capacity: int,
        max_target_weight: float,
    ) -> Self:
        """ids: uint64 [N], distinct; sources: uint32 [N], index into source_floors (float32 [S]).

        explore_by: "uniform", or "ucb": explored places go to the clusters (source x fifth of the
        believed pass rate) with the greatest upper confidence bound on their share of informative
        explored groups, uniformly within each. Admissions are then exact given what these arms
        know; rejected candidates of clusters without a place could not be drawn, so weights of 1 /
        admission stand for the explored clusters alone.

        candidates_from: "epoch", or "pool": `propose` nominates from the whole pool. Policy budget
        (with belief "logit_normal", use_history and candidates_per_draw of at least 2) takes those
        with the highest scores under stored predictions, up to 2e-3, and one candidate per prompt
        wanted in epoch order; a prompt with a label is nominated min_age versions after it (default
        10) or later. Policy "prime_pools" draws by weight. The first search lays out an index: 4
        bytes per prompt, and about 10 more for each of which something is known.
        """

    def propose(
        self, n: int, policy_version: int, among: ArrayLike | None = None
    ) -> NDArray[np.int64]:
        """Candidates to be scored next for a batch of n.

        Empty when enough are admitted or the scan cap or the pool is exhausted.

        First come those admitted for the last batch beyond what was taken, to be judged anew, and
        those due for a re-probe. Candidates that were proposed but not offered before a `take` or a
        `load_state_dict` are proposed again.

        With `among`, int64 [A], the candidates are its free prompts, all of them at once and in
        random order; later calls for the same batch give nothing more. Nobody waits for the next
        batch then: those left from the last one are dropped, and so is a surplus.

        Raises:
            ValueError: The candidates of the last call have not been offered; a prompt is twice in
                `among`; or a batch without it has begun.
            IndexError: An index in `among` is out of range.
        """

    def candidates_per_draw(self, policy_version: int) -> int:
        """Candidates that a batch without `among` may look at for each prompt wanted."""

    def offer(
        self, candidates: ArrayLike, predicted_rewards: ArrayLike, policy_version: int
    ) -> None:
        """Judge the candidates of the last `propose`. predicted_rewards.

        Float32 [C] in 0..1, NaN = no estimator.

        Raises:
            ValueError: Other candidates than proposed, or a prediction outside of 0..1; nothing has
                changed then.
        """

    def take(self, n: int, policy_version: int) -> dict[str, NDArray[Any]]:
        """Hand out draws worth up to n groups and mark them in flight.

        A re-probe costs probe_rollouts / group_size of a group.

        Fewer than that only if the pool has no more free prompts, or if `propose` was not asked
        until it had no more candidates.

        Returns:
            draw_ids int64, prompts int64, predicted_rewards float32, p_informative float32,
            admissions float32, kinds uint8 (0 selected, 1 warmup, 2 explore, 3 reprobe, 4 fill),
            n_rollouts int64.
        """

    def observe(
        self,
        draw_ids: ArrayLike,
        rewards: ArrayLike,
        logprob_targets: ArrayLike,
        policy_version: int,
    ) -> dict[str, NDArray[Any]]:
        """Record rewards float32 [B, G] (NaN = unknown) and exp(mean token log-prob) float32 [B].

        (NaN = unknown) of draws int64 [B].

        Returns:
            statuses uint8 (0 labelled, 1 unknown, 2 closed, 3 never issued), informative bool,
            mean_rewards float32, pass_rates float32, prompts int64 (-1 unless status is 0 or 1),
            predicted_rewards, p_informative, admissions float32 (as drawn; NaN likewise), kinds
            uint8 (as drawn; 0 likewise).
        """

    def release(self, draw_ids: ArrayLike) -> int:
        """Free the prompts of draws without a label; returns how many were in flight."""

    def in_flight(self) -> dict[str, NDArray[Any]]:
        """Open draws, with the keys of `take` and policy_versions int64."""

    def beliefs(
        self, prompts: ArrayLike, predicted_rewards: ArrayLike, policy_version: int
    ) -> dict[str, NDArray[np.float32]]:
        """What is believed now, without changing anything.

        Pass_rates [C], p_informative [C]. predicted_rewards NaN: the stored one.
        """

    def wanted(
        self, prompts: ArrayLike, predicted_rewards: ArrayLike, policy_version: int
    ) -> NDArray[np.bool_]:
        """Whether the rule alone (no exploration, no warm-up) would admit each prompt now.

        Changes nothing.

        Policies that admit and reject: what they say; policies that compare candidates: a score at
        or above the running admission threshold. A rule that draws lots draws once per version.
        """

    def fresh_targets(self) -> dict[str, NDArray[Any]]:
        """Targets recorded since the last call (at most replay_capacity).

        Prompts int64, reward_targets, logprob_targets, counts, weights float32.
        """

    def replay_targets(self, m: int) -> dict[str, NDArray[Any]]:
        """min(m, remembered) targets drawn without replacement from the replay; same keys."""

    def counters(self) -> dict[str, int]:
        """Totals since construction.

        scanned, rejected, drawn_selected, drawn_warmup, drawn_explore, drawn_reprobe, drawn_fill,
        starved_calls, short_calls, labelled, unknown, closed, never_issued, released, late (older
        than the newest label of the prompt), informative, epochs.
        """

    def belief_parameters(self) -> dict[str, float]:
        """The belief's parameters by name, as fitted at present."""

    def state_dict(self) -> dict[str, int | float | str | NDArray[Any]]:
        """Everything that `load_state_dict` needs."""

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> dict[str, int]:
        """Restore what `state_dict` returned.

        Or raise StateError (a ValueError) and change nothing.

        No other thread may write to the state's arrays meanwhile.

        strict: same ids in the same order, else StateError. Not strict: what is known of each
        prompt is carried over by id; open draws of missing prompts are dropped, what is known of
        clusters is forgotten. group_size and seed must be those of the state; other settings may
        differ; another rule starts without a memory.

        Returns:
            matched, missing (in the state, not in this pool), added (in this pool, not in the
            state).
        """
