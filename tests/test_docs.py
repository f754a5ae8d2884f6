"""Every code block of README and docs runs, every command line and link is real."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from depo import PromptSampler
from depo.cli.main import COMMANDS
from depo.config import load_config

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in zip(NAMES, PAGES, strict=True)}
SECTION_OPTION = re.compile(r"--[a-z_]+\.[a-z_]+")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXTS[page], re.DOTALL | re.MULTILINE)


def own_loop() -> dict[str, Any]:
    """Return what the page takes for granted: a sampler, a step, rewards, a tokenizer, a file."""
    pytest.importorskip("torch")
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    from tests.estimator.estimator_helpers import word_tokenizer

    columns = {
        name: [f"{name} {row}" for row in range(100)]
        for name in ("problem", "solution", "topic", "uuid", "difficulty")
    }
    parquet.write_table(arrow.table(columns), "prompts.parquet")
    prompts = [f"w{number} w1" for number in range(100)]
    return {
        "prompts": prompts,
        "PromptSampler": PromptSampler,
        "sampler": PromptSampler(prompts, 8, seed=0),
        "step": 0,
        "rewards_BG": np.tile([0.0, 1.0], (30, 4)),
        "tokenizer": word_tokenizer(),
    }


def trl() -> dict[str, Any]:
    """Return a tiny policy, reward, data set and arguments for the page's trainer."""
    pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import GRPOConfig

    from tests.integrations.trl_helpers import QUIET, kind_reward, tiny_rows, word_tokenizer

    sizes = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 40}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads)).save_pretrained("policy")
    word_tokenizer().save_pretrained("policy")
    args = GRPOConfig(
        output_dir="run",
        per_device_train_batch_size=16,
        num_generations=4,
        max_completion_length=4,
        max_steps=2,
        save_strategy="no",
        **QUIET,
    )
    dataset = Dataset.from_list(tiny_rows())
    return {"model": "policy", "reward": kind_reward, "args": args, "dataset": dataset}


PREAMBLES: dict[str, Callable[[], dict[str, Any]]] = {
    "docs/integrations/own_loop.md": own_loop,
    "docs/integrations/trl.md": trl,
}


@pytest.mark.parametrize("page", [page for page in NAMES if blocks(page, "python")])
def test_the_python_blocks_of_a_page_run_in_order(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = PREAMBLES[page]() if page in PREAMBLES else {}
    for number, block in enumerate(blocks(page, "python")):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block, f"{page}[{number}]", "exec", dont_inherit=True), names)


def test_the_readme_block_needs_numpy_alone(tmp_path: Path) -> None:
    code = blocks("README.md", "python")[0] + "\nimport sys; assert 'torch' not in sys.modules"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    assert "groups informative" in ended.stdout


@pytest.mark.parametrize("page", [page for page in NAMES if blocks(page, "toml")])
def test_toml_blocks_have_known_keys(page: str, tmp_path: Path) -> None:
    for block in blocks(page, "toml"):
        (tmp_path / "config.toml").write_text(block, encoding="utf-8")
        load_config(tmp_path / "config.toml")


def command_lines(page: str) -> list[str]:
    """Return the lines of indented blocks, continued ones joined, without comments."""
    prose = re.sub(r"^```.*?^```", "", TEXTS[page], flags=re.DOTALL | re.MULTILINE)
    lines = re.findall(r"^    (\S.*)$", prose.replace("\\\n", " "), re.MULTILINE)
    return [re.split(r"\s+#", line)[0] for line in lines]


COMMAND_LINES = [(page, line) for page in NAMES for line in command_lines(page)]


def ours(program: str) -> list[tuple[str, str]]:
    return [(page, line) for page, line in COMMAND_LINES if shlex.split(line)[0] == program]


@pytest.mark.parametrize(("page", "line"), ours("depo") + ours("depo-train"))
def test_command_lines_parse(page: str, line: str) -> None:
    program, *arguments = [word for word in shlex.split(line) if word != "..."]
    command = "train" if program == "depo-train" else arguments.pop(0)
    options = COMMANDS[command][0]("depo").parse_args(arguments)
    if command == "train" and not options.resume:
        named = ROOT / (options.config or "")
        config = named if named.is_file() else ROOT / "configs" / "quickstart.toml"
        first = [index for index, word in enumerate(arguments) if SECTION_OPTION.match(word)]
        overrides = [word for index in first for word in arguments[index : index + 2]]
        assert load_config(config, overrides).run.name


@pytest.mark.parametrize(("page", "line"), ours("make"))
def test_make_targets_exist(page: str, line: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE)


def test_the_only_package_named_is_ours() -> None:
    """`depo` on the package index is another project."""
    for page, text in TEXTS.items():
        assert not re.search(r"pip install .?depo(\[|\b[^-])", text), page


@pytest.mark.parametrize("page", NAMES)
def test_paths_and_links_exist(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", TEXTS[page], flags=re.DOTALL | re.MULTILINE)
    linked = re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text)
    named = re.findall(r"`((?:examples|tests|benches|configs|python|crates)/[\w./-]+)`", text)
    scripts = [shlex.split(line)[1] for at, line in ours("python") if at == page]
    assert all((ROOT / page).parent.joinpath(link).exists() for link in linked), linked
    assert all((ROOT / name).exists() for name in named + scripts), named + scripts


def test_the_notebook_runs(capsys: pytest.CaptureFixture[str]) -> None:
    cells = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))[
        "cells"
    ]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for number, cell in enumerate(code):
        exec(compile(cell, f"quickstart.ipynb[{number}]", "exec", dont_inherit=True), names)
    uniform, depo = (sum(names["shares"][preset]) for preset in ("uniform", "depo"))
    assert depo > 2 * uniform
    assert "calibration/auroc" in capsys.readouterr().out
