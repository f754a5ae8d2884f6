"""Checkpoints: what is saved comes back bit for bit.

Also a crash at any moment leaves a whole checkpoint.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from depo.state.checkpoints import Checkpoint, latest_checkpoint, load_checkpoint, save_checkpoint
from depo.types.errors import StateError

TORCH_DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int64,
    torch.uint64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]

keys = st.text(max_size=4).filter(lambda key: not key.startswith("$"))
arrays = hnp.arrays(
    dtype=st.one_of(
        hnp.boolean_dtypes(),
        hnp.integer_dtypes(endianness="="),
        hnp.unsigned_integer_dtypes(endianness="="),
        hnp.floating_dtypes(endianness="=", sizes=(16, 32, 64)),
    ),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
tensors = st.builds(
    lambda dtype, shape, content: (
        torch.tensor(list(content[: 8 * math.prod(shape)]), dtype=torch.uint8)
        .view(dtype)[: math.prod(shape)]
        .reshape(shape)
        if dtype is not torch.bool
        else torch.tensor(list(content[: math.prod(shape)]), dtype=torch.uint8)
        .ge(128)
        .reshape(shape)
    ),
    st.sampled_from(TORCH_DTYPES),
    st.lists(st.integers(0, 2), max_size=3),
    st.binary(min_size=64, max_size=64),
)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)
)
states = st.dictionaries(
    keys,
    st.recursive(
        scalars | arrays | tensors,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    ),
    max_size=4,
)


def bits(value: Any) -> Any:
    """Return a value whose equality means: same type, same shape, same bytes."""
    if isinstance(value, dict):
        return {key: bits(child) for key, child in value.items()}
    if isinstance(value, list):
        return [bits(child) for child in value]
    if isinstance(value, np.ndarray):
        return ("array", value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, torch.Tensor):
        return (
            "tensor",
            value.dtype,
            tuple(value.shape),
            bytes(value.contiguous().reshape(-1).view(torch.uint8).tolist())
            if value.numel()
            else b"",
        )
    return (type(value), repr(value))


def state_of(number: int) -> dict[str, Any]:
    return {
        "number": number,
        "array": np.full(5, number, np.uint64),
        "nested": {"tensor": torch.full((3,), number, dtype=torch.bfloat16)},
    }


def write_model(number: int) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        (directory / "deep").mkdir()
        (directory / "deep" / "weights.bin").write_bytes(bytes([number]) * 100)

    return write


def save(root: Path, step: int, number: int, keep: int = 2) -> Path:
    return save_checkpoint(root, step, state_of(number), {"policy": write_model(number)}, keep)


def number_of(checkpoint: Checkpoint) -> int:
    """Return the number that every part of a checkpoint agrees on."""
    number = checkpoint.state["number"]
    assert bits(checkpoint.state) == bits(state_of(number))
    assert (checkpoint.path / "policy" / "deep" / "weights.bin").read_bytes() == bytes(
        [number]
    ) * 100
    assert isinstance(number, int)
    return number


def latest_number(root: Path) -> int:
    latest = latest_checkpoint(root)
    assert latest is not None
    return number_of(load_checkpoint(latest))


@given(state=states)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_state_comes_back_bit_for_bit(state: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        loaded = load_checkpoint(save_checkpoint(Path(directory), 7, state, {}, 1))
        assert bits(loaded.state) == bits(state)
        assert loaded.step == 7


def test_layouts_in_memory_do_not_matter(tmp_path: Path) -> None:
    shared = torch.arange(12.0).reshape(3, 4)
    state = {
        "transposed": np.arange(6).reshape(2, 3).T,
        "big_endian": np.array([1, 2], dtype=">i4"),
        "read_only": np.broadcast_to(np.float32(3), (2, 2)),
        "row": shared[1],
        "column": shared[:, 1],
        "parameter": torch.nn.Parameter(shared),
    }
    loaded = load_checkpoint(save_checkpoint(tmp_path, 0, state, {}, 1)).state
    for name, value in state.items():
        assert bits(loaded[name]) == bits(
            value.detach().clone()
            if isinstance(value, torch.Tensor)
            else np.array(value, value.dtype.newbyteorder("="), order="C")
        )
    loaded["transposed"][0] = 0  # what comes back can be written to


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        np.array(["a"]),
        np.array([None]),
        np.int64(3),
        b"bytes",
        {3: 1},
        {"$array": 1},
    ],
)
def test_what_cannot_come_back_is_refused_before_anything_is_written(
    tmp_path: Path, value: Any
) -> None:
    with pytest.raises(StateError, match="state outer"):
        save_checkpoint(tmp_path / "root", 1, {"outer": value}, {}, 1)
    assert not (tmp_path / "root").exists()


def test_keeps_the_newest_and_points_to_the_last(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save(tmp_path, step, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "latest",
        "step_000030",
        "step_000040",
    ]
    assert latest_checkpoint(tmp_path) == tmp_path / "step_000040"


def test_latest_falls_back_to_the_newest_complete_one(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "nowhere") is None
    save(tmp_path, 1, 1), save(tmp_path, 2, 2)
    (tmp_path / "latest").write_text("step_000009\n")
    assert latest_checkpoint(tmp_path) == tmp_path / "step_000002"
    (tmp_path / "latest").write_bytes(b"\xff\x00../x")
    assert latest_checkpoint(tmp_path) == tmp_path / "step_000002"
    (tmp_path / "step_000002" / "arrays.safetensors").unlink()
    assert latest_checkpoint(tmp_path) == tmp_path / "step_000001"


FILES = [
    "state.json",
    "arrays.safetensors",
    "tensors.safetensors",
    "manifest.json",
    "policy/deep/weights.bin",
]


@given(
    where=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    file=st.sampled_from(FILES),
    truncate=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_damage_is_never_loaded(where: float, bit: int, file: str, truncate: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = save(Path(directory), 1, 1)
        content = bytearray((path / file).read_bytes())
        position = int(where * len(content))
        if truncate:
            del content[position:]
        else:
            content[position] ^= 1 << bit
        (path / file).write_bytes(content)
        try:
            checkpoint = load_checkpoint(path)
        except StateError as error:
            assert file in str(error) or file == "manifest.json"
        else:
            assert file == "manifest.json", "damage went unseen"
            assert number_of(checkpoint) == 1  # a flipped space of the manifest is no damage


def test_other_format_version_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1, 1)
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(StateError, match="got 2, expected 1"):
        load_checkpoint(path)


CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
"""Audit events of the calls that may change the file system (os.replace reports os.rename)."""


def save_and_die(root: Path, step: int, number: int, dies_at: int) -> bool:
    """Save in a forked child that is killed just before its n-th call.

    That may change the file system; return whether it got to the end.
    """
    child = os.fork()
    if child == 0:
        calls = 0

        def hook(event: str, _: tuple[Any, ...]) -> None:
            nonlocal calls
            calls += event in CHANGES
            if event in CHANGES and calls == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            sys.addaudithook(hook)
            save(root, step, number, keep=1)
            status = 0
        finally:
            os._exit(status)  # the test session goes on in the parent alone
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("step", [1, 2], ids=["replaces its own step", "new step"])
def test_a_kill_at_any_moment_leaves_the_previous_or_the_new_checkpoint(
    tmp_path: Path, step: int
) -> None:
    outcomes = []
    finished = False
    while not finished:
        root = tmp_path / f"run{len(outcomes)}"
        save(root, 1, 1, keep=1)
        finished = save_and_die(root, step, 2, dies_at=len(outcomes) + 1)
        outcomes.append(latest_number(root))
        save_and_die(root, 3, 3, dies_at=len(outcomes) // 2)  # a second crash on top of the first
        assert latest_number(root) in (outcomes[-1], 3)
        for path in root.glob("step_*"):
            load_checkpoint(
                path
            )  # nothing half-written or half-deleted stands under a checkpoint's name
        save(root, 3, 3, keep=1)
        save(root, 4, 4, keep=1)
        assert sorted(path.name for path in root.iterdir()) == ["latest", "step_000004"]
    assert outcomes == sorted(outcomes) and set(outcomes) == {1, 2}
    assert len(outcomes) > 20


def test_everything_is_on_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    real_fsync, real_rename, real_replace = os.fsync, os.rename, os.replace

    def fsync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        real_fsync(descriptor)

    def check(source: Path) -> None:
        if source.name.startswith((".draft", ".latest")):
            assert {path.stat().st_ino for path in (source, *source.rglob("*"))} <= synced

    def rename(source: Path, target: Path) -> None:
        check(source)
        real_rename(source, target)

    def replace(source: Path, target: Path) -> None:
        check(source)
        assert tmp_path.stat().st_ino in synced, (
            "latest must not move before the directory entry of its target is on disk"
        )
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "replace", replace)
    save(tmp_path, 1, 1)
    assert tmp_path.stat().st_ino in synced
