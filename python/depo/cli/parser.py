"""The argument parser of every command, and the options made from configuration keys."""

from __future__ import annotations

import argparse
import difflib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import fields
from textwrap import fill
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from depo.config import SourceConfig, TrainConfig

USER_ERROR = 2
"""Exit status for what a user can mend."""

_METAVARS: Mapping[Any, str] = {int: "INT", float: "FLOAT", bool: "BOOL", str: "TEXT"}


def help_width() -> int:
    """Return the columns of help texts: those of the terminal, within 60..110."""
    return max(60, min(shutil.get_terminal_size().columns, 110))


class Parser(argparse.ArgumentParser):
    """A parser whose errors take one line and suggest the nearest option."""

    def __init__(self, prog: str, description: str, usage: str | None = None) -> None:
        super().__init__(prog, usage, description, formatter_class=_formatter, allow_abbrev=False)
        self.add_argument("--version", action="version", version=_version())

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; an unknown option is an error that names the nearest one."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            option = next((text for text in unknown if text.startswith("-")), unknown[0]).partition(
                "="
            )[0]
            near = difflib.get_close_matches(option, self._option_string_actions, n=1)
            self.error(
                f"unknown argument {option}" + (f"; did you mean {near[0]}?" if near else "")
            )
        return parsed

    def error(self, message: str) -> NoReturn:
        """Exit over a mistake in the arguments, and name the help."""
        self.fail(f"{message} (see {self.prog} --help)")

    def fail(self, message: str) -> NoReturn:
        """Exit over something that the user can mend."""
        self.exit(USER_ERROR, f"{self.prog}: error: {message}\n")


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=help_width(), max_help_position=30)


def _version() -> str:
    from depo.types.version import VERSION

    return f"depo {VERSION}"


def overrides_of(options: argparse.Namespace) -> list[str]:
    """Return the configuration keys that were given, as `load_config` takes them."""
    return [f"--{name}={text}" for name, text in vars(options).items() if "." in name]


def add_config_keys(parser: Parser) -> None:
    """Add one option per configuration key, in groups by section."""
    default, width = TrainConfig(), help_width()
    for section in fields(default):
        add_section(parser, section.name, getattr(default, section.name))
    lines = [
        fill(f"{name} {metavar}: {text}", width, initial_indent="  ", subsequent_indent="      ")
        for name, metavar, text in _keys(SourceConfig())
    ]
    parser.epilog = "\n".join(
        [fill(f"[[data.train]] and [[data.eval]]: {_first_line(SourceConfig())}", width), *lines]
    )


def add_section(parser: Parser, section: str, settings: Any) -> None:
    """Add one option per key.

    Values stay texts: the loader reads and checks them together with the file.
    """
    group = parser.add_argument_group(f"[{section}]", fill(_first_line(settings), help_width() - 4))
    for name, metavar, text in _keys(settings):
        group.add_argument(
            f"--{section}.{name}",
            metavar=metavar,
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
        )


def _keys(settings: Any) -> Iterator[tuple[str, str, str]]:
    """Yield name, kind and explanation of every key of a section."""
    hints = get_type_hints(type(settings))
    for item in fields(settings):
        default = getattr(settings, item.name)
        shown = (
            ""
            if default in ("", (), {})
            else f" (default: {str(default).lower() if isinstance(default, bool) else default})"
        )
        yield item.name, _metavar(hints[item.name]), item.metadata["help"] + shown


def _metavar(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "{" + ",".join(get_args(hint)) + "}"
    if get_origin(hint) in (Union, UnionType):
        return "|".join(_metavar(each).strip("{}") for each in get_args(hint))
    if get_origin(hint) is tuple:
        return (
            "TABLES"
            if SourceConfig in get_args(hint)
            else "[" + ",".join(_METAVARS[each] for each in get_args(hint)) + "]"
        )
    return _METAVARS.get(hint, "TABLE")


def _first_line(settings: Any) -> str:
    return str(type(settings).__doc__).partition("\n")[0]
