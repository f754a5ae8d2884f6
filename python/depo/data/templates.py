"""Fill `{name}` placeholders of a prompt's template; all other braces (LaTeX) are kept."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from depo.types.errors import ConfigError

PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def fill_template(template: str, values: Mapping[str, object]) -> str:
    """Return `template` with every `{name}` of `values` replaced, in one pass.

    Braces inside a value are never read as placeholders.
    """
    return PLACEHOLDER.sub(
        lambda match: str(values[match[1]]) if match[1] in values else match[0], template
    )


def require_placeholder(template: str, names: Collection[str]) -> None:
    """Check that a template does not make all prompts equal.

    Raises:
        ConfigError: The template has no placeholder with one of the names.
    """
    if not any(match[1] in names for match in PLACEHOLDER.finditer(template)):
        expected = ", ".join(f"{{{name}}}" for name in names)
        raise ConfigError(f"template: got {template!r}, expected at least one of {expected} in it")
