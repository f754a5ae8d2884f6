"""Checkpoints: nested state + model folders -> one directory that is either complete or not there.

    step_000100/   state.json, arrays.safetensors, tensors.safetensors (see state_files.py)
                   policy/ ...      what `folders` wrote
                   manifest.json    format version, step; size and SHA-256 of every other file
    latest         name of the newest directory

Names that start with a dot are unfinished business; the next save removes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depo.state.files import ARRAYS_FILE, STATE_FILE, StateFiles, read_state
from depo.state.whole_files import sync, write_whole
from depo.types.errors import StateError

FORMAT_VERSION = 1
_MANIFEST, _LATEST, _REPLACED = "manifest.json", "latest", ".replaced"
_NAME = re.compile(rf"step_(\d{{6,}})({re.escape(_REPLACED)})?")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint read back.

    Attributes:
        step: Training steps done when it was written.
        state: What was saved; tuples come back as lists, tensors on the CPU.
        path: Its directory, which holds the model folders.
    """

    step: int
    state: dict[str, Any]
    path: Path


def save_checkpoint(
    root: Path,
    step: int,
    state: Mapping[str, Any],
    folders: Mapping[str, Callable[[Path], None]],
    keep: int,
) -> Path:
    """Write the checkpoint `root/step_<step>` atomically.

    A crash at any moment leaves the previous checkpoint or the new one, whole.

    Args:
        root: Directory of a run's checkpoints; made if missing. One process at a time writes to it.
        step: Training steps done [>= 0]. An existing checkpoint of that step is replaced.
        state: Nested dicts and lists of None, bool, int, float, str, numpy arrays and torch tensors
            (see `StateFiles`).
        folders: Name -> function that writes a model into the directory given to it.
        keep: Checkpoints up to this step that stay on disk, this one included [>= 1].

    Returns:
        The checkpoint's directory.

    Raises:
        StateError: The state holds something that cannot be saved as it is; nothing was written.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"step, keep: got {step}, {keep}, expected step >= 0 and keep >= 1")
    files = StateFiles(state)
    root.mkdir(parents=True, exist_ok=True)
    _clean(root)
    draft, target = root / f".draft_{step:06d}", root / f"step_{step:06d}"
    draft.mkdir()
    files.write(draft)
    for name, write_folder in folders.items():
        (draft / name).mkdir()
        write_folder(draft / name)
    _write_manifest(draft, step)
    _sync_tree(draft)
    _put_in_place(draft, target)
    _point_latest(root, target.name)
    _clean(root)
    for path in [path for found, path in _checkpoints(root) if found <= step][:-keep]:
        _remove(path)
    return target


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint directory, checking every byte of it.

    Raises:
        StateError: Missing, truncated or altered file, or another format version; the message names
            the file.
    """
    manifest = _read_manifest(path)
    for name, expected in manifest["files"].items():
        if not (path / name).is_file():
            raise StateError(
                f"{path / name}: file is missing; delete {path} to fall back to an older checkpoint"
            )
        found = _fingerprint(path / name)
        if found != expected:
            raise StateError(
                f"{path / name}: damaged: got {found}, expected {expected}; delete {path} to fall "
                f"back to an older checkpoint"
            )
    return Checkpoint(manifest["step"], read_state(path), path)


def latest_checkpoint(root: Path) -> Path | None:
    """Return the directory of the newest complete checkpoint, or None without any.

    The one that `latest` names, unless that is missing or incomplete.

    Complete means: every file of the manifest is there with its size. `load_checkpoint` checks the
    bytes.
    """
    pointer = root / _LATEST
    if pointer.is_file():
        target = root / pointer.read_text(encoding="utf-8", errors="replace").strip()
        if _NAME.fullmatch(target.name) and _is_complete(target):
            return target
    return next((path for _, path in reversed(_checkpoints(root)) if _is_complete(path)), None)


def _put_in_place(draft: Path, target: Path) -> None:
    if _is_complete(target):
        os.rename(target, target.with_name(target.name + _REPLACED))
    elif target.exists():
        _remove(target)
    os.rename(draft, target)
    sync(target.parent)


def _point_latest(root: Path, name: str) -> None:
    write_whole(root / _LATEST, name + "\n")


def _checkpoints(root: Path) -> list[tuple[int, Path]]:
    """Return (step, directory) of all checkpoints, oldest first.

    A replaced one counts as older than its successor.
    """
    if not root.is_dir():
        return []
    matches = [(match, path) for path in root.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [
        (int(match[1]), path)
        for match, path in sorted(matches, key=lambda pair: (int(pair[0][1]), pair[0][2] is None))
    ]


def _clean(root: Path) -> None:
    """Remove what interrupted saves left.

    Drafts, half-deleted directories, replaced checkpoints whose successor is in place.
    """
    for path in sorted(root.iterdir()):
        successor = path.with_name(path.name.removesuffix(_REPLACED))
        if path.name.startswith((".draft_", ".gone_")) or (
            successor != path and _is_complete(successor)
        ):
            _remove(path)


def _remove(path: Path) -> None:
    """Delete a directory; never does a part of it stand under its own name."""
    gone = path if path.name.startswith(".") else path.with_name(f".gone_{path.name}")
    if gone != path:
        os.rename(path, gone)
    shutil.rmtree(gone)


def _write_manifest(directory: Path, step: int) -> None:
    names = [
        path.relative_to(directory).as_posix()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    ]
    content = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "files": {name: _fingerprint(directory / name) for name in names},
    }
    (directory / _MANIFEST).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / _MANIFEST
    if not path.is_file():
        raise StateError(f"{path}: file is missing, so {directory} is no complete checkpoint")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, step, files = manifest["format_version"], manifest["step"], manifest["files"]
    except (ValueError, TypeError, KeyError) as error:
        raise StateError(f"{path}: damaged: {error!r}") from None
    if version != FORMAT_VERSION:
        raise StateError(f"{path}: format version: got {version!r}, expected {FORMAT_VERSION}")
    named = _NAME.fullmatch(directory.name)
    if (
        not isinstance(files, dict)
        or not {STATE_FILE, ARRAYS_FILE} <= files.keys()
        or not isinstance(step, int)
        or (named and int(named[1]) != step)
    ):
        raise StateError(
            f"{path}: damaged: got step {step!r} and files {files!r}, expected the step of "
            f"{directory.name} with its files"
        )
    return manifest


def _is_complete(directory: Path) -> bool:
    try:
        return all(
            (directory / name).stat().st_size == expected["bytes"]
            for name, expected in _read_manifest(directory)["files"].items()
        )
    except (ValueError, OSError, TypeError, KeyError):
        return False


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "bytes": os.fstat(file.fileno()).st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _sync_tree(directory: Path) -> None:
    for path in directory.rglob("*"):
        sync(path)
    sync(directory)
