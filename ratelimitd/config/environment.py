"""Environment variables in scalars: `${NAME}` and `${NAME:-default}`.

They are replaced after the YAML is parsed, so that no value can change the structure of the file. The default
stands in for a variable that is unset or empty, as in a shell; without one an unset variable is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(:-([^{}]*))?\})?")


def expand(text: str, environ: Mapping[str, str]) -> str:
    """`text` with its references replaced; ValueError says what is wrong with one."""

    def replace(reference: re.Match[str]) -> str:
        name, has_default, default = reference.groups()
        if name is None:
            raise ValueError("has a malformed reference: write ${NAME} or ${NAME:-default}")
        value = environ.get(name)
        if value or (value is not None and not has_default):
            return value
        if not has_default:
            raise ValueError(
                f"needs the environment variable {name}, which is not set: set it, or write a default"
            )
        return str(default)

    return _REFERENCE.sub(replace, text)
