"""The command line, driven as users drive it.

Real runs of a tiny policy, and every mistake they make.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from depo.cli import main, train_main
from depo.config import SourceConfig, load_config
from depo.config.load import KEYS
from depo.types.errors import ConfigError

CONFIG = """
[run]
steps = 2
prompts_per_step = 4
eval_every = "off"
save_every = 1
[[data.train]]
path = "words.jsonl"
template = "{prompt}\\n"
[reward]
function = "exact"
[rollout]
group_size = 4
max_new_tokens = 8
[selection]
preset = "uniform"
[estimator]
enabled = false
[policy]
model = "tiny"
[warm_start]
steps = 2
hidden_size = 32
heads = 2
feed_forward = 32
batch_size = 8
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a tiny configuration: turn two letters round."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(CONFIG)
    rows = [
        {"prompt": f"{left}{right}", "answer": f"{right}{left}"}
        for left in "abcdefg"
        for right in "hijkl"
    ]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def status_of(entry: Callable[[list[str]], object], *arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        entry(list(arguments))
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def steps_of(run_directory: Path) -> list[int]:
    return [
        json.loads(line)["step"]
        for line in (run_directory / "metrics.jsonl").read_text().splitlines()
    ]


def test_a_run_is_made_continued_protected_and_extended(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(train_main, "tiny.toml") == 0
    assert "step 2/2" in capsys.readouterr().out
    run_directory = directory / "runs" / "run"
    assert steps_of(run_directory) == [0, 1, 2]
    assert load_config(run_directory / "config.toml") == load_config(directory / "tiny.toml")

    assert status_of(train_main, "tiny.toml") == 0, "the same configuration continues"
    assert "continuing runs/run from step_000002" in capsys.readouterr().out

    before = {path: path.read_bytes() for path in run_directory.rglob("*.jsonl")}
    assert status_of(train_main, "tiny.toml", "--run.steps", "3", "--loss.clip_high=0.3") == 2
    error = capsys.readouterr().err
    assert re.search(
        r"runs/run holds a run of another configuration \(run.steps was 2, is 3; loss.clip_high "
        r"was 0.28, is 0.3\)",
        error,
    )
    assert "--run.name" in error and "--resume runs/run" in error and error.count("\n") == 1
    assert {path: path.read_bytes() for path in run_directory.rglob("*.jsonl")} == before

    assert status_of(main, "train", "--resume", "runs/run", "--run.steps", "3") == 0
    assert steps_of(run_directory) == [0, 1, 2, 3]
    assert load_config(run_directory / "config.toml") == load_config(
        directory / "tiny.toml", ["--run.steps=3"]
    )


def test_ctrl_c_saves_and_says_how_to_go_on(directory: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from depo.cli import train_main; train_main()",
        "tiny.toml",
        "--run.steps",
        "100000",
        "--run.save_every",
        "off",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    metrics = directory / "runs" / "run" / "metrics.jsonl"
    while process.poll() is None and not (
        metrics.exists() and metrics.read_text().count("\n") >= 3
    ):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "depo-train --resume runs/run" in out
    done = steps_of(directory / "runs" / "run")[-1]
    assert (directory / "runs" / "run" / "checkpoints" / f"step_{done:06d}").is_dir()
    assert status_of(train_main, "--resume", "runs/run", "--run.steps", str(done + 1)) == 0
    assert steps_of(directory / "runs" / "run") == list(range(done + 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.toml"], r"absent.toml: No such file or directory"),
        (
            ["tiny.toml", "--loss.clip_hihg", "1"],
            r"unknown argument --loss.clip_hihg; did you mean --loss.clip_high\?",
        ),
        (["tiny.toml", "--run.steps", "0"], r"run.steps: got 0, expected a value \[>= 1\]"),
        (["tiny.toml", "--run.steps", "many"], r"--run.steps: got 'many', expected an integer"),
        (["tiny.toml", "--run.steps"], r"argument --run.steps: expected one argument"),
        (
            ["tiny.toml", "--reward.truncated", "no"],
            r"--reward.truncated: got 'no', expected one of zero, score, unknown",
        ),
        ([], r"got neither CONFIG nor --resume RUN_DIR"),
        (["--resume", "nowhere"], r"nowhere/config.toml: No such file or directory"),
        (["tiny.toml", "--resume", "."], r"got CONFIG tiny.toml and --resume"),
        (["tiny.toml", "--data.train=[{task = 'no_such_task', count = 1}]"], r"no_such_task"),
        (["tiny.toml", "--data.train=[{path = 'absent.jsonl'}]"], r"absent.jsonl"),
        (["."], r"\.: Is a directory"),
        (
            ["tiny.toml", "--policy.model", "no/model"],
            r"policy.model: got 'no/model', expected a directory with a Hugging Face causal LM "
            r"and its tokenizer",
        ),
        (
            ["tiny.toml", "--selection.source_floors", "{nowhere = 0.5}"],
            r"selection.source_floors: got \['nowhere'\], expected sources of the pool",
        ),
        (
            ["tiny.toml", "--selection.success_threshold", "nan"],
            r"selection.success_threshold: got nan, expected a finite number",
        ),
        (["tiny.toml", "--rollout.max_prompt_tokens", "2"], r"expected 1 to max_prompt_tokens = 2"),
    ],
)
def test_a_mistake_is_one_clear_line(
    directory: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert status_of(train_main, *arguments) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    last = error.splitlines()[-1]
    assert last.startswith("depo-train: error: ")
    assert re.search(message, last)


@pytest.mark.parametrize("package", ["torch", "pydantic", "safetensors"])
def test_a_missing_package_is_named_with_its_remedy(directory: Path, package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None; from depo.cli import train_main; "
        f"train_main(['tiny.toml'])"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 2
    assert (
        finished.stderr
        == f"depo-train: error: the package {package} is missing: pip install 'depo-rl[train]'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "invalid choice: 'trian'"),
        (["report"], "the following arguments are required: RUN_DIR"),
        (["compare", "tiny.toml", "--methods", "PPO"], "--methods: got PPO, expected some of grpo"),
    ],
)
def test_mistakes_of_depo(
    directory: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert status_of(main, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("depo") and error.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["train", "--version"]])
def test_depo_says_what_it_is(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert status_of(main, *arguments) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("depo " if "--version" in arguments else "usage: depo")


def test_init_writes_the_quickstart_once(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(main, "init") == 0
    quickstart = Path(__file__).parent.parent / "configs" / "quickstart.toml"
    assert (directory / "depo.toml").read_text() == quickstart.read_text()
    load_config(directory / "depo.toml")
    assert status_of(main, "init") == 2
    assert capsys.readouterr().err == "depo init: error: depo.toml: the file exists; name another\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--selection.policy", "uniform"], "selection.policy"),
        (
            ["--selection.max_age", "0"],
            "selection.max_age: got 0, expected a value [>= 1] or 'off'",
        ),
        (["--run.eval_every", "0"], "run.eval_every: got 0, expected a value [>= 1] or 'off'"),
        (["--policy.model", ""], "policy.model: got ''"),
    ],
)
def test_keys_and_values_of_earlier_versions_name_the_new_ones(
    directory: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert status_of(train_main, "tiny.toml", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_renamed_key_in_a_file_names_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "old.toml"
    file.write_text('[selection]\npolicy = "uniform"\n')
    with pytest.raises(ConfigError, match=r"selection.policy in .* is called selection.rule now"):
        load_config(file)


def test_help_explains_every_key_within_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(train_main, "--help") == 0
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 100
    flat = " ".join(text.split())
    for name in KEYS:
        assert f"--{name} " in flat
    for name in SourceConfig.__dataclass_fields__:
        assert re.search(rf"^  {name} ", text, re.MULTILINE)
    assert "--optimizer.learning_rate FLOAT peak learning rate [> 0] (default: 1e-06)" in flat
    assert (
        "--loss.clip_high FLOAT upper clip of the importance ratio: 1 + clip_high [>= 0] "
        "(default: 0.28)" in flat
    )
