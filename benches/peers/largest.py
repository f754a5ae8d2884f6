"""One step of the sampler, and one of Thompson sampling, in a pool as large as memory allows.

.venv-peers/bin/python benches/peers/largest.py [PROMPTS]
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

import numpy as np
from choices import COUNT
from pools import WARM_STEPS, Steps, build

from depo.sampler.candidates import ThompsonSampler

STEPS = 200


def median_milliseconds(call: Callable[[], object]) -> float:
    """CPU time of a call, the median of many."""
    seconds = []
    for _ in range(STEPS):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return 1e3 * float(np.median(seconds))


def main(prompts: int = 100_000_000) -> None:
    start = time.process_time()
    steps = Steps(build(prompts))
    print(f"{prompts:,} prompts: built in {time.process_time() - start:.1f} CPU s")
    for _ in range(WARM_STEPS):
        steps.sample_and_observe()
    print(f"sample and observe: {median_milliseconds(steps.sample_and_observe):.2f} ms")
    del steps
    random = np.random.default_rng(0)
    sampler, draw = (
        ThompsonSampler(
            *(random.integers(1, 9, prompts).astype(np.float32) for _ in range(2)), seed=0
        ),
        iter(range(STEPS)),
    )
    print(
        f"Thompson sampling of {COUNT}: "
        f"{median_milliseconds(lambda: sampler.sample(COUNT, next(draw))):.2f} ms"
    )
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
