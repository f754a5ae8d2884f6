"""`PromptSampler.save` and `load`: exact continuation, and either all or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("safetensors")

from depo import PromptSampler, StateError
from tests.sampler.sampler_helpers import answer, make


def play(sampler: PromptSampler, first: int, last: int) -> list[list[int]]:
    """Draw and observe for some steps; one draw of each step stays open."""
    ids = []
    for step in range(first, last):
        draws = sampler.sample(6, policy_version=step)
        sampler.observe(draws[1:], answer(draws[1:]), policy_version=step)
        ids.append([draw.draw_id for draw in draws])
    return ids


def failing_rename(calls: list[Path], fails_at: int) -> Callable[[Path, Path], None]:
    """Return an os.rename whose call number `fails_at` fails."""
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == fails_at:
            raise OSError("disk is gone")
        rename(source, target)

    return failing


def test_a_loaded_sampler_goes_on_as_the_saved_one(tmp_path: Path) -> None:
    whole, loaded = make(), make()
    play(whole, 0, 5)
    whole.save(tmp_path)
    assert loaded.load(tmp_path) == {"matched": len(whole.prompts), "missing": 0, "added": 0}
    assert play(loaded, 5, 9) == play(whole, 5, 9)
    assert loaded.in_flight() == whole.in_flight()


def test_a_save_that_fails_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = make()
    play(sampler, 0, 3)
    sampler.save(tmp_path)
    expected = play(sampler, 3, 5)
    for fails_at in (1, 2):
        calls: list[Path] = []
        with monkeypatch.context() as patched:
            patched.setattr(os, "rename", failing_rename(calls, fails_at))
            with pytest.raises(OSError, match="disk is gone"):
                sampler.save(tmp_path)
        loaded = make()
        loaded.load(tmp_path)
    assert play(loaded, 3, 5) == expected


def test_another_pool_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    sampler = make()
    play(sampler, 0, 3)
    sampler.save(tmp_path)
    other = PromptSampler([f"other {i}" for i in range(50)], group_size=sampler.group_size, seed=0)
    before = other.state_dict()["core"]["sampler.clock"]
    with pytest.raises(StateError):
        other.load(tmp_path)
    assert other.state_dict()["core"]["sampler.clock"] == before


def test_nothing_saved_and_a_missing_estimator_are_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="got no complete save"):
        make().load(tmp_path)
    make(estimator=False).save(tmp_path)
    with pytest.raises(StateError, match="got no estimator, expected one"):
        make().load(tmp_path)
