"""What a handler's SQL text would do, as far as its text and its result say."""

from __future__ import annotations

import functools
import re

# What is not SQL's own words: strings, quoted names, dollar quotes, comments.
_QUOTED = re.compile(
    r"""
      \b[eE]'(?:[^'\\]|''|\\.)*'
    | '(?:[^']|'')*'
    | "(?:[^"]|"")*"
    | \$(?P<tag>[A-Za-z_]\w*|)\$ .*? \$(?P=tag)\$
    | --[^\n]*
    | /\*.*?\*/
    """,
    re.VERBOSE | re.DOTALL,
)
_ENDS = re.compile(
    r"""
    (?: ^ | ; ) \s* (?:
        commit | end | abort | begin | start\s+transaction | prepare\s+transaction
      | rollback (?! (?: \s+ (?:work|transaction) )? \s+ to\b )
      | (?: savepoint | release (?:\s+savepoint)? | rollback (?:\s+(?:work|transaction))? \s+ to (?:\s+savepoint)? )
        \s+ "?minuet\w*
    ) \b
    """,
    re.VERBOSE | re.IGNORECASE,
)
_READS = re.compile(r"\s*(?:select|values|table|show)\b", re.IGNORECASE)
_CALLS = re.compile(r"\b([a-z_]\w*)\s*\(", re.IGNORECASE)
_HARMLESS = frozenset(
    {
        *(
            "all",
            "and",
            "any",
            "as",
            "by",
            "cast",
            "distinct",
            "exists",
            "having",
            "in",
            "is",
            "not",
            "on",
            "or",
            "over",
        ),
        *(
            "row",
            "some",
            "using",
            "values",
            "when",
            "where",
            "avg",
            "coalesce",
            "count",
            "current_timestamp",
            "extract",
        ),
        *("greatest", "least", "left", "length", "lower", "max", "min", "now", "nullif", "round", "row_number"),
        *("substring", "sum", "trim", "upper"),
    }
)
"""Words that may come before a parenthesis, and functions that write nothing."""


def _words(text: str) -> str:
    return _QUOTED.sub(lambda found: '"minuet' if found[0].startswith('"minuet') else " ", text)


@functools.lru_cache(maxsize=4096)
def ends_transaction(text: str) -> bool:
    """Whether it commits, rolls back or begins, or touches a savepoint of ours. Cached, as handlers' texts are few."""
    return bool(_ENDS.search(_words(text)))


@functools.lru_cache(maxsize=4096)
def only_reads(text: str) -> bool:
    """Whether it surely writes nothing: a plain query, without functions of which we do not know that."""
    words = _words(text)
    if not _READS.match(words) or ";" in words.rstrip(" \n;") or re.search(r"\binto\b", words, re.IGNORECASE):
        return False
    return all(name.lower() in _HARMLESS for name in _CALLS.findall(words))


@functools.lru_cache(maxsize=4096)
def names_ours(text: str) -> bool:
    """Whether it may look at tables of ours."""
    return "minuet" in text.lower()


def changed_nothing(tag: str) -> bool:
    """Whether a command's tag says that no row was written, as ``UPDATE 0`` does."""
    return tag in ("UPDATE 0", "DELETE 0", "INSERT 0 0")


# `::` is a cast; it comes before a name in the alternatives, so that its second colon begins none.
_NAMED = re.compile(_QUOTED.pattern + r"| :: | :(?P<name>[A-Za-z_]\w*)", re.VERBOSE | re.DOTALL)


@functools.lru_cache(maxsize=4096)
def numbered(text: str) -> tuple[str, tuple[str, ...]]:
    """``:name`` as ``$1``, and the names in the order of their numbers. What is quoted is left alone; so is ``::``."""
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        name = found["name"]
        if not name:
            return found[0]
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return _NAMED.sub(number, text), tuple(names)
