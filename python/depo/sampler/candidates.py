"""Candidates chosen by a number or two per prompt, from pools of millions.

In far less time than NumPy needs.

    scores_N = my_model(pool)                                      # float32, one per prompt
    candidates = nearest(scores_N, 0.5, 1024)                      # or top(scores_N, 1024), or
    in_window(scores_N, 0.2, 0.8, 1024, step, seed=0) draws = sampler.sample(128,
    policy_version=step, among=candidates)

`WeightedSampler` keeps weights that change a few at a time, priorities for example.
`ThompsonSampler` does Thompson sampling over all prompts, from posteriors that `DiscountedCounts`
keeps, or yours:

    counts = DiscountedCounts(N, decay=0.97)
    thompson = ThompsonSampler(*counts.shapes(0), seed=0)
    for step in range(steps):
        positions, _ = thompson.sample(128, step)
        successes = my_rollouts(positions)                         # of 8 each
        counts.update(positions, successes, np.full(positions.size, 8), step)
        thompson.update(positions, *counts.shapes(step, positions))
        if step % 50 == 0:
            thompson.update(np.arange(N), *counts.shapes(step))    # counts fade with every step,
            the sampler's posteriors when they are updated

NumPy and the Rust core only.
"""

from depo._core import DiscountedCounts, ThompsonSampler, WeightedSampler, in_window, nearest, top

__all__ = ["DiscountedCounts", "ThompsonSampler", "WeightedSampler", "in_window", "nearest", "top"]
