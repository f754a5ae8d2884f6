"""A run that is killed anywhere and started again equals the run that never was.

Metrics, draws, probes, weights, bit for bit.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

import depo.state.checkpoints
from depo.config import TrainConfig
from depo.state.checkpoints import latest_checkpoint
from depo.training.trainer import RunResult, Trainer
from tests.training.tiny import tiny_config

DETERMINISTIC_FILES = ("metrics.jsonl", "journal.jsonl", "probes.jsonl")


def config_of(directory: Path, *overrides: str) -> TrainConfig:
    """Return the tiny configuration.

    In which every prompt without a label in two steps is probed.
    """
    return tiny_config(directory, "--selection.max_age", "2", *overrides)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the cached warm start and one uninterrupted run in `whole`."""
    directory = tmp_path_factory.mktemp("resume")
    Trainer(config_of(directory), directory / "whole").run()
    return directory


def killed_during(config_directory: Path, run_directory: Path, arm: Callable[[], None]) -> None:
    """Run in a child process, which `arm` makes kill itself at some point; check that it did."""
    child = os.fork()
    if child == 0:
        arm()
        Trainer(config_of(config_directory), run_directory).run()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_step(step: int, method: str = "step") -> Callable[[], None]:
    """Arm: die when the trainer is about to do this step."""

    def arm() -> None:
        original = getattr(Trainer, method)

        def dying(self: Trainer, *arguments: object, **options: object) -> object:
            if self.steps_done == step:
                kill_self()
            return original(self, *arguments, **options)

        setattr(Trainer, method, dying)

    return arm


def in_save(call: int, function: str) -> Callable[[], None]:
    """Arm: die at the given call of one of the functions that a checkpoint is written with."""

    def arm() -> None:
        original = getattr(depo.state.checkpoints, function)
        calls = 0

        def dying(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls == call:
                kill_self()
            return original(*arguments)

        setattr(depo.state.checkpoints, function, dying)

    return arm


def assert_same_run(ours: Path, theirs: Path) -> None:
    for name in DETERMINISTIC_FILES:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    mine, other = latest_checkpoint(ours / "checkpoints"), latest_checkpoint(theirs / "checkpoints")
    assert mine is not None
    assert other is not None
    assert mine.name == other.name
    files = sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(mine) for path in mine.rglob("*") if path.is_file())
    for file in files:
        assert (mine / file).read_bytes() == (other / file).read_bytes(), file


KILLS = {
    "before the first step": at_step(0),
    "before step 1, without any checkpoint": at_step(1),
    "before step 2, right after a checkpoint": at_step(2),
    "before step 3": at_step(3),
    "before step 5": at_step(5),
    "after step 3, before its row is written": at_step(3, "_record"),
    "writing the first checkpoint": in_save(1, "_write_manifest"),
    "renaming the second checkpoint": in_save(2, "_put_in_place"),
    "before `latest` moves to the second checkpoint": in_save(2, "_point_latest"),
}


@pytest.mark.parametrize("arm", KILLS.values(), ids=KILLS.keys())
def test_killed_run_continues_as_if_nothing_had_happened(
    shared: Path, tmp_path: Path, arm: Callable[[], None]
) -> None:
    killed_during(shared, tmp_path / "run", arm)
    result = Trainer(config_of(shared), tmp_path / "run").run()
    assert result.status == "finished"
    assert_same_run(tmp_path / "run", shared / "whole")


@pytest.mark.parametrize(
    ("belief", "probe_rollouts"), [("logit_normal", 1), ("beta", 2), ("beta", "all")]
)
def test_run_stopped_after_every_step_continues_as_if_nothing_had_happened(
    shared: Path, tmp_path: Path, belief: str, probe_rollouts: int
) -> None:
    overrides = (
        "--selection.belief",
        belief,
        "--selection.probe_rollouts",
        str(probe_rollouts),
        "--run.eval_every",
        "1",
    )
    Trainer(config_of(shared, *overrides), tmp_path / "whole").run()
    for steps in range(1, 7):
        assert (
            Trainer(config_of(shared, *overrides, "--run.steps", str(steps)), tmp_path / "run")
            .run()
            .status
            == "finished"
        )
    assert '"kind": "reprobe"' in (tmp_path / "run" / "journal.jsonl").read_text()
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_interrupt_saves_and_says_how_to_go_on(shared: Path, tmp_path: Path) -> None:
    trainer = Trainer(config_of(shared), tmp_path / "run")
    original = trainer.step

    def interrupted_at_three(step: int) -> dict[str, float]:
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return original(step)

    trainer.step = interrupted_at_three  # type: ignore[method-assign]
    result = trainer.run()
    assert result == RunResult(
        "stopped", f"stopped after 4 steps; continue with: depo-train --resume {tmp_path / 'run'}"
    )
    assert Trainer(config_of(shared), tmp_path / "run").run().status == "finished"
    assert_same_run(tmp_path / "run", shared / "whole")


def test_finished_run_is_not_repeated(shared: Path) -> None:
    before = (shared / "whole" / "metrics.jsonl").read_bytes()
    assert Trainer(config_of(shared), shared / "whole").run().status == "finished"
    assert (shared / "whole" / "metrics.jsonl").read_bytes() == before
