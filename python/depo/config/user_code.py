"""Functions that a configuration names: `package.module:function` or `path/file.py:function`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from depo.types.errors import ConfigError


def load_function(reference: str, key: str) -> Callable[..., Any]:
    """Import a user's function.

    Args:
        reference: `package.module:function` or `path/file.py:function`.
        key: The configuration key that names it, for error messages.

    Raises:
        ConfigError: It cannot be imported, or is no function.
    """
    place, _, name = reference.rpartition(":")
    got = f"{key}: got {reference!r}"
    module = _import_file(Path(place), got) if place.endswith(".py") else _import_module(place, got)
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{got}, but {place} has no function {name!r}")
    return function  # type: ignore[no-any-return]


def _import_file(file: Path, got: str) -> ModuleType:
    if not file.is_file():
        raise ConfigError(f"{got}, but there is no file {file}")
    name = f"depo_user_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and the like look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(
            f"{got}, but importing {file} raised {type(error).__name__}: {error}"
        ) from error
    return module


def _import_module(name: str, got: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ConfigError(
            f"{got}, but importing {name!r} raised {type(error).__name__}: {error}; a file is "
            f"given as path/file.py:function"
        ) from error
