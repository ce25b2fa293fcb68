"""Values and where they come from: layers laid over each other, variables filled in.

A document is held flat: the path of each leaf, its value and its origin. Tables merge
key by key; a list is one value and is replaced, never merged. Later wins, always.
"""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

Key = tuple[str, ...]
REFERENCE = re.compile(r"\$(\$\{)|\$\{([^{}]*)\}")
VARIABLES = "variables"
BUILT_IN = "built-in"


@dataclass(frozen=True, slots=True)
class Sourced:
    """A value, who set it, and which variables it was made with, by their origins."""

    value: Any
    origin: str
    used: tuple[tuple[str, str], ...] = ()

    @property
    def where(self) -> str:
        """Say for people where the value comes from."""
        made = ", ".join(f"${{{name}}} from {origin}" for name, origin in self.used)
        return f"{self.origin} ({made})" if made else self.origin


Values = Mapping[Key, Sourced]


class Undefined(Exception):
    """A variable that nobody defined, or that is defined by itself."""


def dotted(key: Key) -> str:
    """Return a path as people write it."""
    return ".".join(key)


def flat(
    document: Mapping[str, Any], origin: str, prefix: Key = ()
) -> dict[Key, Sourced]:
    """Return the leaves of a document; an empty table is one."""
    found: dict[Key, Sourced] = {}
    for name, value in document.items():
        key = (*prefix, name)
        if isinstance(value, Mapping) and value:
            found |= flat(value, origin, key)
        else:
            found[key] = Sourced(value, origin)
    return found


def nested(values: Values, prefix: Key = ()) -> dict[str, Any]:
    """Return the document below a path."""
    made: dict[str, Any] = {}
    for key, leaf in values.items():
        if key[: len(prefix)] != prefix or len(key) == len(prefix):
            continue
        table = made
        for part in key[len(prefix) : -1]:
            table = table.setdefault(part, {})
        table[key[-1]] = leaf.value
    return made


def overlay(
    below: Values, above: Values, unset: Sequence[Key] = ()
) -> dict[Key, Sourced]:
    """Lay values over others; what `unset` names is taken away first."""
    made = dict(below)
    for gone in unset:
        for key in [key for key in made if key[: len(gone)] == gone]:
            del made[key]
    tables = {key[:length] for key in made for length in range(1, len(key))}
    for key, leaf in above.items():
        if key in tables:
            if leaf.value == {}:
                continue  # an empty table adds nothing
            for inner in [k for k in made if k[: len(key)] == key]:
                del made[inner]
        for length in range(1, len(key)):
            made.pop(key[:length], None)
            tables.add(key[:length])
        made[key] = leaf
    return made


def changed(below: Values, above: Values) -> Iterator[tuple[Key, Sourced, Sourced]]:
    """Yield what an overlay would set to another value than somebody set before."""
    for key, leaf in above.items():
        before = below.get(key)
        if before is not None and before.value != leaf.value:
            yield key, before, leaf


def filled(
    values: Values, built_in: Mapping[str, str], literal: Container[str] = ()
) -> dict[Key, Sourced]:
    """Fill `${name}` into every string; raises Undefined, naming where.

    Values whose origin is `literal` stay as they are.

    A string that is nothing but `${name}` becomes the variable's value, whatever its
    type; `$${` stands for `${`. Variables may be made of others.
    """
    variables = {
        key[1]: leaf
        for key, leaf in values.items()
        if key[0] == VARIABLES and len(key) == 2  # noqa: PLR2004  variables.<name>
    }
    known = _Known(
        variables | {k: Sourced(v, BUILT_IN) for k, v in built_in.items()}, ()
    )
    made: dict[Key, Sourced] = {}
    for key, leaf in values.items():
        try:
            plain = key[0] == VARIABLES or leaf.origin in literal
            made[key] = leaf if plain else _filled(leaf, known)
        except Undefined as error:
            raise Undefined(f"{leaf.origin}: {dotted(key)}: {error}") from error
    return made


@dataclass(frozen=True, slots=True)
class _Known:
    """The variables, and those being filled in just now."""

    variables: Mapping[str, Sourced]
    open: tuple[str, ...]

    def value(self, name: str) -> Sourced:
        if name in self.open:
            raise Undefined(f"${{{name}}} is made of itself")
        if name not in self.variables:
            near = get_close_matches(name, self.variables, n=1, cutoff=0.5)
            hint = f", did you mean ${{{near[0]}}}?" if near else ""
            raise Undefined(f"${{{name}}} is not defined{hint}")
        leaf = self.variables[name]
        if leaf.origin == BUILT_IN:
            return leaf
        return _filled(leaf, _Known(self.variables, (*self.open, name)))


def _filled(leaf: Sourced, known: _Known) -> Sourced:
    used: dict[str, str] = {}
    value = _substituted(leaf.value, known, used)
    return replace(leaf, value=value, used=tuple(used.items()))


def _substituted(value: Any, known: _Known, used: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_substituted(each, known, used) for each in value]
    if not isinstance(value, str) or "$" not in value:
        return value
    alone = REFERENCE.fullmatch(value)
    if alone and alone[2] is not None:
        return _looked_up(alone[2], known, used).value

    def text(found: re.Match[str]) -> str:
        if found[1]:
            return "${"
        inner = _looked_up(found[2], known, used).value
        if isinstance(inner, list):
            raise Undefined(f"${{{found[2]}}} is a list and must stand alone")
        return str(inner).lower() if isinstance(inner, bool) else str(inner)

    return REFERENCE.sub(text, value)


def _looked_up(name: str, known: _Known, used: dict[str, str]) -> Sourced:
    leaf = known.value(name)
    used[name] = leaf.origin
    used.update(leaf.used)
    return leaf
