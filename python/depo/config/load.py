"""TOML file + command-line overrides -> TrainConfig, and back to TOML."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args, get_type_hints

import tomli_w
from pydantic import TypeAdapter, ValidationError

from depo.config.estimator import ESTIMATOR_PRESETS
from depo.config.keys import describe
from depo.config.loss import LOSS_PRESETS
from depo.config.presets import SELECTOR_PRESETS
from depo.config.sections import SourceConfig, TrainConfig
from depo.types.errors import ConfigError

SECTIONS: Mapping[str, Any] = get_type_hints(TrainConfig)
"""Section name -> its dataclass, in the order of a configuration file."""

KEYS: Mapping[str, Any] = {
    f"{section}.{name}": hint
    for section, cls in SECTIONS.items()
    for name, hint in get_type_hints(cls).items()
}
"""`section.key` -> its type, in the order of a configuration file."""

PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "selection": {name: preset.settings for name, preset in SELECTOR_PRESETS.items()},
    "loss": LOSS_PRESETS,
    "estimator": ESTIMATOR_PRESETS,
}
"""Section -> preset -> the keys that it sets."""

_SOURCE_KEYS: Mapping[str, Any] = get_type_hints(SourceConfig)
_COMMAND_LINE = "on the command line"
_RENAMED = {
    "selection.policy": "selection.rule",
    "selection.policy_options": "selection.rule_options",
}
"""Keys of earlier versions -> what they are called now."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a configuration.

    Later wins: defaults, presets (`selection.preset`, `loss.preset`, `estimator.preset`), keys of
    the file, a preset named in the overrides (for the keys that it or the file's preset sets),
    other overrides.

    Args:
        path: TOML file. Relative paths inside it are relative to the working directory.
        overrides: `--section.key=value` or `--section.key`, `value`. A value is a TOML literal
            (`true`, `1e-4`, `[0.1, 0.9]`) or a bare text.

    Raises:
        ConfigError: Not TOML, an unknown section or key, a value of the wrong type or out of its
            range.
        FileNotFoundError: No such file.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    overriding = _typed_overrides(_split(overrides))
    values = _without_presets(_typed_tables(tables, f"in {path}"), overriding) | overriding
    return _resolve(values, f"in {path}{' and overrides' if overrides else ''}")


def load_tables(tables: Mapping[str, Any], where: str) -> TrainConfig:
    """Return the configuration of sections as nested mappings.

    For frameworks that bring configuration files of their own.

    Args:
        tables: Section name -> key -> value, as `tomllib` would return them.
        where: Where they stand, for messages: "in data.depo".

    Raises:
        ConfigError: An unknown section or key, a value of the wrong type or out of its range.
    """
    return _resolve(_typed_tables(tables, where), where)


def override_defaults(overrides: Sequence[str]) -> TrainConfig:
    """Return the defaults with overrides on top, for commands that have no file.

    See `load_config` for their form.

    Raises:
        ConfigError: An unknown key, a value of the wrong type or out of its range.
    """
    return _resolve(_typed_overrides(_split(overrides)), _COMMAND_LINE)


def dump_config(config: TrainConfig) -> str:
    """Return the configuration as TOML, every key written out.

    `load_config` reads it back equal.
    """
    return tomli_w.dumps(asdict(config))


def differences(ours: TrainConfig, theirs: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Return `section.key` -> (our value, their value) of every key whose values differ."""
    pairs = {}
    for name in KEYS:
        section, _, key = name.partition(".")
        pairs[name] = tuple(getattr(getattr(config, section), key) for config in (ours, theirs))
    return {name: (mine, other) for name, (mine, other) in pairs.items() if mine != other}


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return "; did you mean X?" for the nearest known name, or nothing when none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _resolve(values: Mapping[str, Any], where: str) -> TrainConfig:
    """Return the configuration of `section.key` -> value, over presets and defaults."""
    try:
        return TrainConfig(
            **{
                section: _build(cls, _of_section(values, section))
                for section, cls in SECTIONS.items()
            }
        )
    except ConfigError as error:
        raise ConfigError(f"{error} ({where})") from None


def _build(cls: Any, values: dict[str, Any]) -> Any:
    if hasattr(cls, "from_preset"):
        return cls.from_preset(values.pop("preset", cls().preset), **values)
    return cls(**values)


def _without_presets(values: Mapping[str, Any], overriding: Mapping[str, Any]) -> dict[str, Any]:
    """Take out of the file's values what a preset on the command line decides.

    Also what the preset of the file, which it replaces, decides; a resolved file spells that out.
    """
    named = [
        (section, layer.get(f"{section}.preset"))
        for section in PRESETS
        if f"{section}.preset" in overriding
        for layer in (values, overriding)
    ]
    decided = {
        f"{section}.{name}"
        for section, preset in named
        for name in PRESETS[section].get(str(preset), {})
    }
    return {name: value for name, value in values.items() if name not in decided}


def _of_section(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    return {
        name.partition(".")[2]: value
        for name, value in values.items()
        if name.partition(".")[0] == section
    }


def _typed_tables(tables: Mapping[str, Any], where: str) -> dict[str, Any]:
    values = {}
    for section, table in tables.items():
        if section not in SECTIONS:
            raise ConfigError(
                f"unknown section [{section}] {where}{suggestion(section, list(SECTIONS))}"
            )
        if not isinstance(table, dict):
            raise ConfigError(f"{section} {where}: got {table!r}, expected a section [{section}]")
        for name, value in table.items():
            dotted = f"{section}.{name}"
            _check_known(dotted, KEYS, where)
            values[dotted] = _typed(dotted, KEYS[dotted], value, where)
    return values


def _typed(name: str, hint: Any, value: Any, where: str) -> Any:
    """Check a TOML value against a key's type.

    An integer may stand for a number, nothing else is converted.
    """
    if SourceConfig in get_args(hint):
        return _sources(name, value, where)
    try:
        return TypeAdapter(hint).validate_python(
            tuple(value) if isinstance(value, list) else value, strict=True
        )
    except ValidationError:
        raise ConfigError(f"{name} {where}: got {value!r}, expected {describe(hint)}") from None


def _sources(name: str, tables: Any, where: str) -> tuple[SourceConfig, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{name} {where}: got {tables!r}, expected tables [[{name}]]")
    return tuple(_source(name, table, where) for table in tables)


def _source(name: str, table: Mapping[str, Any], where: str) -> SourceConfig:
    known = {f"{name}.{key}": hint for key, hint in _SOURCE_KEYS.items()}
    values = {}
    for key, value in table.items():
        _check_known(f"{name}.{key}", known, where)
        values[key] = _typed(f"{name}.{key}", known[f"{name}.{key}"], value, where)
    try:
        return SourceConfig(**values)
    except ConfigError as error:
        raise ConfigError(f"{error} (in [[{name}]] {where})") from None


def _check_known(name: str, known: Mapping[str, Any], where: str) -> None:
    if name in _RENAMED:
        raise ConfigError(f"{name} {where} is called {_RENAMED[name]} now")
    if name not in known:
        raise ConfigError(f"unknown key {name} {where}{suggestion(name, list(known))}")


def _split(overrides: Sequence[str]) -> dict[str, str]:
    """Return section.key -> text of `--section.key=text` and `--section.key`, `text`."""
    texts: dict[str, str] = {}
    tokens = iter(overrides)
    for token in tokens:
        name, equals, text = token.removeprefix("--").partition("=")
        if not token.startswith("--"):
            raise ConfigError(f"unexpected {token!r} {_COMMAND_LINE}, expected --section.key value")
        _check_known(name, KEYS, _COMMAND_LINE)
        given = text if equals else next(tokens, None)
        if given is None:
            raise ConfigError(f"--{name}: a value is missing, expected {describe(KEYS[name])}")
        texts[name] = given
    return texts


def _typed_overrides(texts: Mapping[str, str]) -> dict[str, Any]:
    return {name: _typed_text(name, KEYS[name], text) for name, text in texts.items()}


def _typed_text(name: str, hint: Any, text: str) -> Any:
    """Read a text as a TOML literal where that fits the key's type, else as the bare text.

    (`--run.name 7` is the name "7").
    """
    try:
        return _typed(name, hint, _literal(text), _COMMAND_LINE)
    except ConfigError:
        if SourceConfig in get_args(hint):
            raise
    try:
        return TypeAdapter(hint).validate_python(text)
    except ValidationError:
        raise ConfigError(f"--{name}: got {text!r}, expected {describe(hint)}") from None


def _literal(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text
