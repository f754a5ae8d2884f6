"""`write_whole`: the old content or the new one, never a part."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from depo.state import whole_files
from depo.state.whole_files import write_whole


@pytest.mark.parametrize("content", [b"", b"new", "text"])
def test_the_content_is_written(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    write_whole(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_failure_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*arguments: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(whole_files.os, call, fail)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    assert os.listdir(tmp_path)
