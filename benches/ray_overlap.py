"""What working at once does to the wall time of a step.

    python benches/ray_overlap.py estimator [--steps 24] [--tokens 256]   # an estimator, overlapped
    with the rollouts or between them; against none python benches/ray_overlap.py update    [--steps
    24] [--tokens 256]   # the next batch generated while the learner updates; against one after the
    other

One rollout worker with the local engine; the quickstart's pool and estimator, a policy that was
hardly trained, so that responses run to their budget. In `estimator` nothing is rewarded and
rollouts take most of a step; in `update` a checksum of the response is, and most groups are trained
on. The runs take turns, step by step; ratios are of neighbouring steps. Wants a free core for each
process that works.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from depo.config import load_config
from depo.training.distributed.cluster import set_up_ray
from depo.training.trainer import Trainer

CONFIG = Path(__file__).parent.parent / "configs" / "quickstart.toml"
CHECKSUM = (
    "def checksum(completions, **columns):\n    return [float(sum(map(ord, text)) % 2) for "
    "text in completions]\n"
)
ALONE = ("--estimator.enabled", "false")
COMPARISONS = {
    "estimator": {"without": ALONE, "overlapped": ("--distributed.overlap", "true"), "between": ()},
    "update": {"on-policy": ALONE, "ahead": (*ALONE, "--distributed.max_policy_lag", "1")},
}
"""Runs that are compared; the first is what the others are divided by."""
FIRST_STEPS = 3


def trainer(comparison: str, name: str, directory: Path, tokens: int) -> Trainer:
    settings = {
        "run.name": name,
        "run.directory": directory,
        "run.eval_every": "off",
        "run.save_every": "off",
        "warm_start.cache": directory / "cache",
        "warm_start.steps": 1,
        "rollout.max_new_tokens": tokens,
        "selection.backfill": "false",
        "selection.warmup_steps": 0,
        "optimizer.learning_rate": 1e-9,
        "distributed.rollout_workers": 1,
    }
    if comparison == "update":
        (directory / "checksum.py").write_text(CHECKSUM)
        settings |= {
            "reward.function": f"{directory / 'checksum.py'}:checksum",
            "reward.truncated": "score",
        }
    overrides = [f"--{key}={value}" for key, value in settings.items()]
    return Trainer(
        load_config(CONFIG, [*overrides, *COMPARISONS[comparison][name]]), directory / name
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("comparison", choices=COMPARISONS)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=256)
    options = parser.parse_args()
    set_up_ray(local=True)
    import ray

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    first, *others = names = [*COMPARISONS[options.comparison]]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as directory:
        trainers = {
            name: trainer(options.comparison, name, Path(directory), options.tokens)
            for name in names
        }
        for step in range(FIRST_STEPS + options.steps):
            for name, each in trainers.items():
                start = time.perf_counter()
                each.step(step)
                seconds[name].append(time.perf_counter() - start)
        for each in trainers.values():
            each.parts.close()
    ray.shutdown()
    base = seconds[first][FIRST_STEPS:]
    print(
        f"{first}: median {statistics.median(base):.3f} s per step, load of the last minute "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    for name in others:
        ratios = [
            each / without for each, without in zip(seconds[name][FIRST_STEPS:], base, strict=True)
        ]
        print(
            f"{name}: median ratio {statistics.median(ratios):.3f}, of the fastest steps "
            f"{min(seconds[name][FIRST_STEPS:]) / min(base):.3f}"
        )


if __name__ == "__main__":
    main()
