"""A short run of depo-train on somebody else's data file.

By a chat model that is right now and then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from depo.config import SourceConfig, load_config
from depo.runs.run_records import RunRecords
from depo.training.trainer import Trainer
from depo.training.warm_start import warm_start_policy
from tests.training.tiny import TINY_CONFIG


def assert_run_judges_both_ways(
    data: Path,
    demonstrations: Iterable[Mapping[str, str]],
    directory: Path,
    *overrides: str,
    warm_start_steps: int,
    settings: str = "",
) -> None:
    """Train for three steps on `data`, read by the source's `settings`.

    Also check that responses earned 0 and 1 and nothing else.

    The policy answers as its `demonstrations`, rows of prompt and answer.
    """
    file = _run_file(data, settings, directory)
    policy = _chat_policy(file, demonstrations, warm_start_steps, directory)
    Trainer(load_config(file, [*overrides, "--policy.model", str(policy)]), directory / "run").run()
    rewards = np.array(
        [group["rewards"] for group in RunRecords.read(directory / "run").journal], float
    )
    assert len(rewards) >= 12
    assert set(rewards.flatten()) == {0.0, 1.0}


def _run_file(data: Path, settings: str, directory: Path) -> Path:
    _, _, others = TINY_CONFIG.partition("[reward]\n")
    sources = (
        f'[[data.train]]\npath = "{data}"\n{settings}\n\n[[data.eval]]\npath = '
        f'"{data}"\ncount = 4\n{settings}\n'
    )
    file = directory / "run.toml"
    file.write_text(
        f'[run]\nsteps = 3\nprompts_per_step = 4\neval_every = "off"\nsave_every = '
        f'"off"\n\n{sources}\n[reward]\n{others}'
    )
    return file


def _chat_policy(
    file: Path, demonstrations: Iterable[Mapping[str, str]], steps: int, directory: Path
) -> Path:
    rows = directory / "demonstrations.jsonl"
    rows.write_text("\n".join(map(json.dumps, demonstrations)))
    config = load_config(
        file, ["--warm_start.cache", str(directory), "--warm_start.steps", str(steps)]
    ).warm_start
    policy = warm_start_policy([SourceConfig(path=str(rows))], [], config, threads=1)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(policy)
    return policy
