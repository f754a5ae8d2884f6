"""Candidates chosen by one number per prompt, from pools of millions, in far less time than NumPy needs: the best few, or draws by weight.

    scores_N = my_model(pool)                                      # float32, one per prompt
    candidates = nearest(scores_N, 0.5, 1024)                      # or top(scores_N, 1024)
    draws = sampler.sample(128, policy_version=step, among=candidates)

`WeightedSampler` keeps weights that change a few at a time, priorities for example. NumPy and the Rust core only.
"""

from depo._core import WeightedSampler, nearest, top

__all__ = ["WeightedSampler", "nearest", "top"]
