"""Whole runs under Ray.

The same as without it, the same after deaths and interruptions, and a clear end where there is no
way on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.training.ray_helpers import small_ray  # isort: skip  # before anything else imports Ray

import psutil
import torch
from safetensors.torch import load_file

from depo.cli import train_main
from depo.config import TrainConfig, load_config
from depo.runs.run_records import RunRecords
from depo.state.checkpoints import latest_checkpoint
from depo.training.trainer import Trainer
from tests.rollout.vllm_helpers import needs_vllm
from tests.training.lag_helpers import LAG, without_cluster
from tests.training.tiny import TINY_CONFIG, checksum_overrides, tiny_config

DETERMINISTIC_FILES = ("metrics.jsonl", "journal.jsonl", "probes.jsonl")
OVERLAP = ("--distributed.rollout_workers", "1", "--distributed.overlap", "true")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that holds the cached warm start."""
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with small_ray(cpus=4):
        yield


@pytest.fixture
def _ray(ray_here: None) -> Iterator[None]:
    """Have Ray, and see that a run leaves none of its actors behind."""
    yield
    end = time.monotonic() + 60
    while left := actors("RolloutWorker", "EstimatorActor", "LearnerRank"):
        assert time.monotonic() < end, left
        time.sleep(0.1)


def config_of(shared: Path, *overrides: str) -> TrainConfig:
    return tiny_config(
        shared, *checksum_overrides(shared), "--run.steps", "4", "--run.eval_every", "1", *overrides
    )


def kill_actors(name: str, of: int | None = None, limit: int | None = None) -> list[int]:
    """Kill the actors of a class among the descendants of a process, and return their ids."""
    found = actors(name, of=of)[:limit]
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return found


def actors(*names: str, of: int | None = None) -> list[int]:
    """Return the ids of actors of these classes among the descendants of a process."""
    found = []
    for child in psutil.Process(of).children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if child.cmdline() and child.cmdline()[0].startswith(
                tuple(f"ray::{name}" for name in names)
            ):
                found.append(child.pid)
    return found


def here(config: TrainConfig, run_directory: Path) -> None:
    """Do in this process alone what the actors of a run would do."""
    with pytest.MonkeyPatch.context() as patch:
        without_cluster(patch)
        assert Trainer(config, run_directory).run().status == "finished"


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
@pytest.mark.parametrize("options", [OVERLAP, OVERLAP + LAG], ids=["overlap", "overlap and lag"])
def test_run_is_that_of_one_process_although_its_worker_dies(
    shared: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Two steps here, then two under Ray, where the worker is killed while it generates.

    The bytes of four steps here.
    """
    here(config_of(shared, *options), tmp_path / "whole")
    here(config_of(shared, *options, "--run.steps", "2"), tmp_path / "cut")
    resumed = Trainer(config_of(shared, *options), tmp_path / "cut")
    engine, sampler, killed = resumed.parts.engine, resumed.parts.sampler, list[int]()
    generate, prepare, prepared = engine.generate, sampler.prepare, threading.Event()

    def killed_meanwhile(*arguments: object, **options: object) -> object:
        if not killed:
            threading.Timer(0.005, lambda: killed.extend(kill_actors("RolloutWorker"))).start()
        groups = generate(*arguments, **options)
        if threading.current_thread() is not threading.main_thread():  # not in an evaluation
            assert prepared.wait(120), (
                "the next candidates are scored before these responses are back"
            )
            prepared.clear()
        return groups

    def noted(*arguments: object, **options: object) -> None:
        prepare(*arguments, **options)
        prepared.set()

    engine.generate, sampler.prepare = killed_meanwhile, noted
    assert resumed.run().status == "finished"
    assert len(killed) == 1
    for name in DETERMINISTIC_FILES:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (
            name
        )
    weights = [
        load_file(tmp_path / run / "checkpoints" / "step_000004" / "policy" / "model.safetensors")
        for run in ("whole", "cut")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (
            ("--estimator.model", "absent"),
            "estimator.model: got 'absent', expected a directory with a Hugging Face encoder and "
            "its tokenizer",
        ),
        pytest.param(
            ("--estimator.enabled", "false", "--rollout.engine", "vllm", "--warm_start.heads", "8"),
            "policy: got attention heads of size 4, expected one of [",
            marks=needs_vllm,
        ),
    ],
    ids=["estimator", "vLLM"],
)
def test_a_mistake_that_an_actor_finds_is_told_as_in_one_process(
    shared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    mistake: tuple[str, ...],
    message: str,
) -> None:
    (tmp_path / "tiny.toml").write_text(TINY_CONFIG)
    arguments = [
        str(tmp_path / "tiny.toml"),
        "--warm_start.cache",
        str(shared / "cache"),
        "--run.directory",
        str(tmp_path),
        *mistake,
    ]
    told = []
    for options in ((), OVERLAP):
        with pytest.raises(SystemExit) as end:
            train_main([*arguments, *options])
        assert end.value.code == 2
        told.append(capsys.readouterr().err.splitlines()[-1])
    assert told[0].startswith(f"depo-train: error: {message}")
    assert told[1] == told[0]


def test_overlapped_estimator_learns_from_the_labels_of_the_step_before(
    shared: Path, tmp_path: Path
) -> None:
    here(config_of(shared, *OVERLAP), tmp_path)
    first, *later = RunRecords.read(tmp_path).metrics[1:]
    assert "estimator/loss" not in first
    assert all("estimator/loss" in row for row in later)


@pytest.mark.slow
def test_learner_that_dies_ends_the_run_which_goes_on_elsewhere(
    shared: Path, tmp_path: Path
) -> None:
    """A worker and two ranks in a cluster of their own, one rank killed.

    The checkpoint is that of one process, which continues it.
    """
    limits = ("--rollout.max_logprob_mismatch", "1e-5", "--optimizer.learning_rate", "1e-3")
    arguments = [
        "--warm_start.cache",
        str(shared / "cache"),
        *checksum_overrides(shared),
        *LAG,
        *limits,
        "--run.directory",
        str(tmp_path),
    ]
    (tmp_path / "tiny.toml").write_text(TINY_CONFIG)
    checkpoints = tmp_path / "run" / "checkpoints"
    with started(
        [
            str(tmp_path / "tiny.toml"),
            *arguments,
            "--run.save_every",
            "1",
            "--run.steps",
            "10000",
            "--distributed.learner_ranks",
            "2",
        ]
    ) as run:
        while not (checkpoints / "latest").exists():
            assert run.poll() is None, run.communicate()[1]
            time.sleep(0.1)
        assert listening(run.pid) <= {"127.0.0.1", "::ffff:127.0.0.1"}
        assert kill_actors("LearnerRank", of=run.pid, limit=1)
        errors = run.communicate(timeout=120)[1]
    assert run.returncode == 1, errors
    assert f"depo-train --resume {tmp_path / 'run'}" in errors
    newest = latest_checkpoint(checkpoints)
    assert newest is not None
    steps = int(newest.name.removeprefix("step_"))
    here(
        tiny_config(
            shared,
            *arguments,
            "--run.steps",
            str(steps + 1),
            "--run.save_every",
            "1",
            "--run.keep_checkpoints",
            "2",
        ),
        tmp_path / "alone",
    )
    here(
        load_config(
            tmp_path / "run" / "config.toml",
            ["--distributed.learner_ranks", "1", "--run.steps", str(steps + 1)],
        ),
        tmp_path / "run",
    )
    for step in (steps, steps + 1):
        ours, theirs = (
            load_file(
                tmp_path / run / "checkpoints" / f"step_{step:06d}" / "policy" / "model.safetensors"
            )
            for run in ("run", "alone")
        )
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-5)


@contextmanager
def started(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run depo-train in a process of its own, and end it whatever happens."""
    code = "import sys; from depo.cli import train_main; train_main(sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as run:
        try:
            yield run
        finally:
            run.kill()


def listening(pid: int) -> set[str]:
    """Return the addresses at which a process and its descendants listen."""
    process = psutil.Process(pid)
    connections = [
        connection
        for each in (process, *process.children(recursive=True))
        for connection in each.net_connections("tcp")
    ]
    return {
        connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_quickstart_through_two_workers_is_that_of_the_local_engine(
    quickstart_policies: Path, tmp_path: Path
) -> None:
    """So it learns as that does, which `test_trainer.py` has bounds for."""
    overrides = [
        "--run.steps",
        "5",
        "--run.eval_every",
        "5",
        "--warm_start.cache",
        str(quickstart_policies),
    ]
    for workers in "02":
        config = load_config(
            Path(__file__).parents[2] / "configs" / "quickstart.toml",
            [*overrides, "--distributed.rollout_workers", workers],
        )
        assert Trainer(config, tmp_path / workers).run().status == "finished"
    local, ray = (RunRecords.read(tmp_path / workers) for workers in "02")
    assert [exact(row) for row in ray.journal] == [exact(row) for row in local.journal]
    assert sum(row["informative"] for row in local.journal) > 20
    for ours, theirs in zip(ray.metrics, local.metrics, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-2, nan_ok=True)
    weights = [
        load_file(
            tmp_path / workers / "checkpoints" / "step_000005" / "policy" / "model.safetensors"
        )
        for workers in "02"
    ]
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], rtol=0, atol=1e-5)


def exact(row: Mapping[str, object]) -> dict[str, object]:
    """Return what no rounding touches: the prompt, its rewards, the number of tokens.

    Not what was believed of it.
    """
    return {name: value for name, value in row.items() if not isinstance(value, float)}
