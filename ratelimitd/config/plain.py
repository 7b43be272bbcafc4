"""What an unquoted YAML scalar means, and where the YAML versions quarrel about it.

The types are those of YAML 1.2's core schema. A text that YAML 1.1 (what most tools still read) takes for
something else, such as `on`, `1:30`, `010` or `2026-01-02`, is a surprise: whoever wrote it may have meant
either, so it is an error and the operator says which by quotes or by another spelling.
"""

from __future__ import annotations

import re
from typing import Literal

Type = Literal["null", "truth", "whole", "decimal", "text"]

_CORE: tuple[tuple[Type, re.Pattern[str]], ...] = (
    ("null", re.compile(r"null|Null|NULL|~|")),
    ("truth", re.compile(r"true|True|TRUE|false|False|FALSE")),
    ("whole", re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+")),
    (
        "decimal",
        re.compile(
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
        ),
    ),
)

_SURPRISES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"y|yes|on|n|no|off", re.IGNORECASE),
        "some YAML readers take it for a truth value: write true or false, or put it in quotes",
    ),
    (
        re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"),
        "some YAML readers take it for a number to the base of 60: put it in quotes",
    ),
    (
        re.compile(r"[-+]?0[0-9_]+|[-+]?0o[0-7_]+|[-+]?0b[01_]+"),
        "some YAML readers take it for an octal number: write it without the leading 0, or in quotes",
    ),
    (
        re.compile(r"[-+]?[0-9]+_[0-9_]*(\.[0-9_]*)?|[-+]?0x[0-9a-fA-F]*_[0-9a-fA-F_]*"),
        "some YAML readers ignore the underscore in a number: write it without, or put it in quotes",
    ),
    (
        re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?"),
        "some YAML readers take it for a date: put it in quotes",
    ),
    (re.compile(r"<<"), "merge keys are not supported: write the settings out"),
)


def core_type(text: str) -> Type:
    for name, pattern in _CORE:
        if pattern.fullmatch(text):
            return name
    return "text"


def surprise(text: str) -> str | None:
    """Why the unquoted `text` is ambiguous; None when every YAML reader agrees."""
    if len(text) > 40:
        return None
    for pattern, reason in _SURPRISES:
        if pattern.fullmatch(text):
            return reason
    return None
