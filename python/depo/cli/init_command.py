"""`depo init`: a starter configuration."""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path

from depo.cli.parser import Parser
from depo.types.errors import ConfigError


def init_parser(prog: str) -> Parser:
    """Return the parser of `depo init`."""
    parser = Parser(prog, "Write a commented starter configuration: the quickstart's.")
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        type=Path,
        default=Path("depo.toml"),
        help="where to write it (default: depo.toml)",
    )
    return parser


def init(options: argparse.Namespace) -> int:
    """Write the starter configuration; never over an existing file."""
    text = files("depo.config").joinpath("starter.toml").read_text(encoding="utf-8")
    try:
        with options.file.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{options.file}: the file exists; name another") from None
    print(f"wrote {options.file}; train with: depo-train {options.file}")
    return 0
