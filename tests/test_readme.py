"""The README's examples run word for word."""

from __future__ import annotations

import random
import re
import shlex
from pathlib import Path

import pytest

from depo.config import load_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_embedding_example_runs() -> None:
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example
    coin = random.Random(0)
    names: dict[str, object] = {
        "my_rollouts_and_rewards": lambda text: [float(coin.random() < 0.5) for _ in range(8)]
    }
    exec(compile(example[1], "README.md", "exec"), names)
    sampler, verdicts = names["sampler"], names["verdicts"]
    assert sampler.metrics()["sampler/labelled"] == 100 * 32  # type: ignore[attr-defined]
    assert len(verdicts) == 32  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "line", re.findall(r"^    depo-train (configs/\S+.*?)(?:  +#.*)?$", README, re.MULTILINE)
)
def test_command_lines_name_real_files_and_keys(line: str) -> None:
    path, *overrides = shlex.split(line)
    assert load_config(ROOT / path, overrides).run.name
