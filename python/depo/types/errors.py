"""The few errors that depo raises on purpose.

Each is also the builtin error that it specialises.
"""

DISTRIBUTION = "depo-rl"
"""Name of the package on PyPI. `depo` there is another project."""


def install_hint(extra: str) -> str:
    """Return the command that installs an extra: pip install 'depo-rl[train]'."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type, or contradicts another.

    The message names it, what was got and what is expected.
    """


class DataError(ValueError):
    """A data file cannot be read as prompts; the message names file, line and field."""


class StateError(ValueError):
    """A saved state does not fit: other version, other data set, missing or superfluous entries."""


class WorkerError(RuntimeError):
    """A process that the run cannot go on without has died; the newest checkpoint is whole."""
