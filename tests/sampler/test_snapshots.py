"""Snapshots: a run goes on bit for bit, the caller's moment is saved.

And a killed, full or damaged store keeps a whole snapshot.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from depo import PromptSampler, SelectorConfig
from depo.config.presets import SELECTOR_PRESETS
from depo.sampler.snapshots import SnapshotStore
from depo.state.nested import FlatState
from depo.types.errors import StateError
from depo.types.records import TargetBatch
from tests.sampler.sampler_helpers import G, LengthEstimator, answer, make

HERE = Path(__file__).parent


def step(sampler: PromptSampler, version: int) -> list[Any]:
    draws = sampler.sample(6, policy_version=version)
    verdicts = sampler.observe(draws[:-1], answer(draws[:-1]), policy_version=version)
    return [draws, verdicts, sampler.update_estimator(), sampler.metrics()]


def content(sampler: PromptSampler) -> str:
    """The whole state as a text; NaN is equal to itself there."""
    flat = FlatState(sampler.state_dict())
    return json.dumps(
        [flat.content, {name: array.tobytes().hex() for name, array in flat.arrays.items()}]
    )


class SlowEstimator(LengthEstimator):
    """Has a state that is torn while it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.done = 0, 0
        self.halfway, self.may_end = threading.Event(), threading.Event()

    def update(self, batches: Sequence[TargetBatch]) -> dict[str, float]:
        self.begun += 1
        self.halfway.set()
        assert self.may_end.wait(60)
        self.done += 1
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"begun": self.begun, "done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.begun, self.done = state["begun"], state["done"]


def test_an_estimator_is_saved_and_restored_between_its_updates(tmp_path: Path) -> None:
    sampler, store, estimator = make(), SnapshotStore(tmp_path), SlowEstimator()
    sampler.estimator = estimator
    store.save(sampler, wait=True)
    for act in (lambda: store.save(sampler, wait=True), lambda: store.load(sampler)):
        draws = sampler.sample(4, policy_version=0)
        sampler.observe(draws, answer(draws), policy_version=0)
        estimator.halfway.clear()
        estimator.may_end.clear()
        learning, acting = (
            threading.Thread(target=sampler.update_estimator),
            threading.Thread(target=act),
        )
        learning.start()
        assert estimator.halfway.wait(60)
        acting.start()
        acting.join(0.2)
        estimator.may_end.set()
        learning.join()
        acting.join()
        assert store.load(sampler) is not None
        assert (estimator.begun, estimator.done) == (1, 1)


@pytest.mark.parametrize("preset", SELECTOR_PRESETS)
@settings(max_examples=5, deadline=None)
@given(cut=st.integers(0, 7), seed=st.integers(0, 2**32), estimator=st.booleans())
def test_a_restored_run_equals_the_uninterrupted_one(
    preset: str, cut: int, seed: int, estimator: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole, store = (
        make(preset=preset, seed=seed, estimator=estimator),
        SnapshotStore(tmp_path_factory.mktemp("snapshots")),
    )
    for version in range(cut):
        step(whole, version)
        store.save(whole, extra={"version": version})
    store.save(whole)
    resumed = make(preset=preset, seed=seed, estimator=estimator)
    report = store.load(resumed)
    assert report is not None
    assert (report.generation, report.matched, report.missing, report.added) == (cut + 1, 60, 0, 0)
    for version in range(cut, cut + 4):
        assert repr(step(resumed, version)) == repr(step(whole, version))
    assert content(resumed) == content(whole)


def test_what_is_saved_is_the_moment_of_the_call(tmp_path: Path) -> None:
    sampler, store, loaded = make(), SnapshotStore(tmp_path), make()
    for version in range(20):
        step(sampler, version)
        expected = content(sampler)
        store.save(sampler)
        step(sampler, version)  # while the thread writes
        store.load(loaded)
        assert content(loaded) == expected


def test_extra_comes_back_as_it_was(tmp_path: Path) -> None:
    store, sampler = SnapshotStore(tmp_path), make()
    arrays = {
        name: np.arange(6).reshape(2, 3).astype(name)
        for name in ("bool", "int8", "uint16", "float16", "int64", "complex64")
    }
    tensors = {
        "half": torch.arange(3, dtype=torch.bfloat16),
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 4, dtype=torch.int64),
    }
    extra = {
        "step": 7,
        "nan": float("nan"),
        "text": 'a "quoted" ü',
        "list": [1, [2.5, None]],
        "arrays": arrays,
        "empty": np.zeros((3, 0)),
    }
    store.save(sampler, extra={**extra, "tensors": tensors})
    report = store.load(sampler)
    assert report is not None
    assert repr(report.extra) == repr({**extra, "tensors": tensors})
    with pytest.raises(StateError, match="extra/key"):
        store.save(sampler, extra={"key": object()})
    assert store.load(sampler) is not None


def test_any_tool_reads_the_arrays(tmp_path: Path) -> None:
    sampler, store = make(), SnapshotStore(tmp_path)
    step(sampler, 0)
    store.save(sampler, wait=True)
    read = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    for name, entry in sampler.state_dict()["core"].items():
        if not isinstance(entry, str):
            np.testing.assert_array_equal(read[name], entry)


def test_another_pool_is_carried_by_id_and_refused_when_strict(tmp_path: Path) -> None:
    sampler, store = make(), SnapshotStore(tmp_path)
    for version in range(4):
        step(sampler, version)
    store.save(sampler)
    other = PromptSampler(
        [*sampler.prompts[:3:-1], "another"], G, sampler.config, sampler.estimator, sampler.seed
    )
    with pytest.raises(StateError, match="other prompts"):
        store.load(other)
    report = store.load(other, strict=False)
    assert report is not None
    assert (report.matched, report.missing, report.added) == (56, 4, 1)
    np.testing.assert_array_equal(
        other.beliefs(range(56), policy_version=4)[1],
        sampler.beliefs(range(59, 3, -1), policy_version=4)[1],
    )


def test_a_snapshot_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    sampler, store = make(), SnapshotStore(tmp_path)
    step(sampler, 0)
    store.save(sampler)
    for other, message in (
        (make(seed=4), "settings.seed"),
        (make(estimator=False), "got an estimator, expected none"),
        (make(size=50), "other prompts"),
    ):
        before = content(other), other.estimator and other.estimator.state_dict()
        with pytest.raises(StateError, match=message):
            store.load(other)
        assert (content(other), other.estimator and other.estimator.state_dict()) == before


def test_no_snapshot_is_none_and_two_damaged_ones_are_an_error(tmp_path: Path) -> None:
    sampler, store = make(), SnapshotStore(tmp_path / "new" / "directory")
    assert store.load(sampler) is None
    store.save(sampler)
    store.save(sampler, wait=True)
    for name in ("a", "b"):
        file = tmp_path / "new" / "directory" / f"{name}.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StateError, match=r"(?s)b\.safetensors.*a\.safetensors"):
        store.load(sampler)


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A process that runs some lines after the imports of this file."""
    preamble = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\nfrom test_snapshots import "
        f"*\ndirectory = sys.argv[1]\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", preamble + code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SAVES = """
sampler, store = make(size=3000), SnapshotStore(directory)
report = store.load(sampler)
first = report.extra["version"] + 1 if report else 0
for version in range(first, 10**6):
    step(sampler, version)
    store.save(sampler, extra={"version": version, "pad": np.full(500_000, version)})
    store.wait()
    print(version, flush=True)
"""


@pytest.mark.slow
def test_a_store_whose_process_is_killed_has_its_last_or_its_newest_snapshot(
    tmp_path: Path,
) -> None:
    delays, reference, at, done = random.Random(0), make(size=3000), 0, -1
    for _ in range(8):
        process = child(SAVES, str(tmp_path))
        assert process.stdout is not None
        done = int(process.stdout.readline())
        time.sleep(delays.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        done = max([done, *map(int, process.stdout.read().split())])
        process.communicate()
        loaded = make(size=3000)
        report = SnapshotStore(tmp_path).load(loaded)
        assert report is not None
        assert report.extra["version"] in (done, done + 1)
        assert (report.extra["pad"] == report.extra["version"]).all()
        for version in range(at, report.extra["version"] + 1):
            step(reference, version)
        at = report.extra["version"] + 1
        assert content(loaded) == content(reference)


FULL = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sampler, store = make(), SnapshotStore(directory)
store.save(sampler, extra={"version": 1})
store.save(sampler, extra={"version": 2}, wait=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
large = {"pad": np.zeros(10_000)}
for attempt in range(2):
    step(sampler, attempt)
    store.save(sampler, extra=large)
    try:
        store.save(sampler)
    except OSError as error:
        print(error, flush=True)
assert store.load(make()).extra == {"version": 2}
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.save(sampler, extra=large, wait=True)
print(store.load(make()).generation)
"""


def test_a_full_disk_is_an_error_of_the_next_call_and_keeps_the_newest(tmp_path: Path) -> None:
    output, errors = child(FULL, str(tmp_path)).communicate()
    lines = output.splitlines()
    assert len(lines) == 3, errors
    assert all("a.safetensors" in line and "File too large" in line for line in lines[:2])
    assert lines[2] == "3"


@pytest.mark.parametrize(
    "ending", ["", "raise KeyboardInterrupt", "os.kill(os.getpid(), signal.SIGINT)"]
)
def test_a_program_that_ends_waits_for_its_last_save(ending: str, tmp_path: Path) -> None:
    process = child(
        f"sampler = make()\nSnapshotStore(directory).save(sampler, extra={{'pad': "
        f"np.zeros(5_000_000)}})\n{ending}",
        str(tmp_path),
    )
    process.communicate()
    report = SnapshotStore(tmp_path).load(make())
    assert report is not None
    assert report.extra["pad"].size == 5_000_000


def test_import_needs_numpy_alone() -> None:
    code = (
        "import sys, depo.sampler.snapshots\nassert not {'torch', 'safetensors', 'pydantic'} & "
        "set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_the_store_is_of_any_selector(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    first = PromptSampler(["a", "b", "c"], 2, SelectorConfig.from_preset("depo"))
    store.save(first)
    second = PromptSampler(
        ["a", "b", "c"], 2, SelectorConfig.from_preset("depo_paper", warmup_steps=0)
    )
    assert store.load(second) is not None
