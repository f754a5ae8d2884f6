"""A run that is tiny and yet whole: real tasks, warm start, policy, estimator, checkpoints.

About 5 CPU seconds.
"""

from __future__ import annotations

from pathlib import Path

from depo.config import TrainConfig, load_config

TINY_CONFIG = """
[run]
steps = 6
prompts_per_step = 4
eval_every = 3
save_every = 2

[[data.train]]
name = "spell"
task = "spell_backward"
knobs = { min_word_len = 3, max_word_len = 5 }
count = 60
band = "frontier"
template = "{prompt}\\n"

[[data.train]]
name = "product"
task = "products"
knobs = { min_terms = 2, max_terms = 2, min_digits = 3, max_digits = 3 }
count = 60
band = "impossible"
template = "{prompt}\\n"

[[data.eval]]
name = "spell"
task = "spell_backward"
knobs = { min_word_len = 3, max_word_len = 5 }
seed = 1000000
count = 8
band = "frontier"
template = "{prompt}\\n"

[reward]
function = "reasoning_gym"

[policy]
model = "tiny"

[warm_start]
hidden_size = 32
layers = 1
heads = 2
feed_forward = 64
steps = 30
batch_size = 32

[rollout]
group_size = 4
max_new_tokens = 8

[selection]
warmup_steps = 2
candidates_per_draw = 3
backfill_rounds = 2

[estimator]
hidden_size = 32
layers = 1
heads = 2
feed_forward = 64
trunk_sizes = [32, 16]
replay_batch = 8

[optimizer]
learning_rate = 1e-3
warmup_steps = 2

[evaluation]
samples = 2
probe_prompts = 6
"""


def tiny_config(directory: Path, *overrides: str) -> TrainConfig:
    """Return the configuration with its warm start cached under `directory`."""
    path = directory / "tiny.toml"
    path.write_text(TINY_CONFIG)
    return load_config(path, ["--warm_start.cache", str(directory / "cache"), *overrides])


def checksum_overrides(directory: Path) -> tuple[str, ...]:
    """Return overrides for a reward that even a policy that can do nothing earns now and then.

    A checksum of the response.
    """
    file = directory / "checksum.py"
    file.write_text(
        "def checksum(completions, **columns):\n    return [float(sum(map(ord, text)) % 3 == 0) "
        "for text in completions]\n"
    )
    return ("--reward.function", f"{file}:checksum", "--reward.truncated", "score")
