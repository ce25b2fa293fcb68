"""Values with their origins: layers are merged, then variables are filled in.

A document is flat: a mapping from the path of each leaf to its value and origin. Tables
merge key by key; a list is one value and is replaced, never merged. The later layer
always wins.
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
LONGEST = 2**20  # characters that variables put into the values of a device, in all
DEEPEST = 20  # variables of which each is made of the next


@dataclass(frozen=True, slots=True)
class Sourced:
    """A value, the layer that set it, and the variables that it was made with.

    `used` is a sequence of pairs: the name of a variable, and its origin.
    """

    value: Any
    origin: str
    used: tuple[tuple[str, str], ...] = ()

    @property
    def where(self) -> str:
        """The origin for people, with those of the variables."""
        made = ", ".join(f"${{{name}}} from {origin}" for name, origin in self.used)
        return f"{self.origin} ({made})" if made else self.origin


Values = Mapping[Key, Sourced]


class Undefined(Exception):
    """A variable is not defined, or is defined by itself."""


def dotted(key: Key) -> str:
    """Return a path as people write it: `a.b.c`."""
    return ".".join(key)


def flat(
    document: Mapping[str, Any], origin: str, prefix: Key = ()
) -> dict[Key, Sourced]:
    """Return the leaves of a document by their paths; an empty table is a leaf."""
    leaves: dict[Key, Sourced] = {}
    for name, value in document.items():
        key = (*prefix, name)
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, origin, key)
        else:
            leaves[key] = Sourced(value, origin)
    return leaves


def nested(values: Values, prefix: Key = ()) -> dict[str, Any]:
    """Return the document below a path: the inverse of `flat`."""
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
    """Return `below` without the paths in `unset`, and with `above` laid over it."""
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
    """Yield each path that both layers set, and to different values.

    The tuple is the path, its value in `below`, and its value in `above`.
    """
    for key, leaf in above.items():
        before = below.get(key)
        if before is not None and before.value != leaf.value:
            yield key, before, leaf


def filled(
    values: Values, built_in: Mapping[str, str], literal: Container[str] = ()
) -> dict[Key, Sourced]:
    """Replace `${name}` in every string by the variable's value.

    A string that is only `${name}` becomes the variable's value, whatever its type;
    `$${` stands for `${`. Variables may contain others. `built_in` adds variables;
    values whose origin is in `literal` stay as they are. Raises Undefined, with layer
    and key.
    """
    own = {
        key[1]: leaf
        for key, leaf in values.items()
        if key[0] == VARIABLES and len(key) == 2  # noqa: PLR2004  variables.<name>
    }
    variables = _Variables(
        own | {name: Sourced(value, BUILT_IN) for name, value in built_in.items()}
    )
    made: dict[Key, Sourced] = {}
    for key, leaf in values.items():
        try:
            plain = key[0] == VARIABLES or leaf.origin in literal
            made[key] = leaf if plain else variables.fill(leaf)
        except Undefined as error:
            raise Undefined(f"{leaf.origin}: {dotted(key)}: {error}") from error
    return made


class _Variables:
    """Owns the variables of a device, and counts what is made of them."""

    def __init__(self, by_name: Mapping[str, Sourced]) -> None:
        self._by_name = by_name
        self._filled: dict[str, Sourced] = {}
        self._open: list[str] = []  # those that are being filled in
        self._size = 0

    def fill(self, leaf: Sourced) -> Sourced:
        """Return a value with its variables filled in; raises Undefined."""
        if leaf.origin == BUILT_IN:
            return leaf
        used: dict[str, str] = {}
        value = self._substituted(leaf.value, used)
        return replace(leaf, value=value, used=tuple(used.items()))

    def _value(self, name: str) -> Sourced:
        if name in self._open:
            raise Undefined(f"${{{name}}} is made of itself")
        if name not in self._by_name:
            near = get_close_matches(name, self._by_name, n=1, cutoff=0.5)
            hint = f", did you mean ${{{near[0]}}}?" if near else ""
            raise Undefined(f"${{{name}}} is not defined{hint}")
        if name not in self._filled:
            if len(self._open) == DEEPEST:
                raise Undefined(
                    f"${{{name}}}: more than {DEEPEST} variables, each of the next"
                )
            self._open.append(name)
            self._filled[name] = self.fill(self._by_name[name])
            self._open.pop()
        return self._filled[name]

    def _substituted(self, value: Any, used: dict[str, str]) -> Any:
        if isinstance(value, list):
            return [self._element(each, used) for each in value]
        if not isinstance(value, str) or "$" not in value:
            return value
        alone = REFERENCE.fullmatch(value)
        if alone and alone[2] is not None:
            return self._looked_up(alone[2], used)
        return REFERENCE.sub(lambda match: self._text(match, used), value)

    def _element(self, value: Any, used: dict[str, str]) -> Any:
        made = self._substituted(value, used)
        if isinstance(made, list) and isinstance(value, str):
            raise Undefined(f"{value} is a list and must stand alone")
        return made

    def _text(self, match: re.Match[str], used: dict[str, str]) -> str:
        if match[1]:
            return "${"
        inner = self._looked_up(match[2], used)
        if isinstance(inner, list):
            raise Undefined(f"{match[0]} is a list and must stand alone")
        text = str(inner).lower() if isinstance(inner, bool) else str(inner)
        self._size += len(text)
        if self._size > LONGEST:
            raise Undefined(f"variables make more than {LONGEST} characters")
        return text

    def _looked_up(self, name: str, used: dict[str, str]) -> Any:
        leaf = self._value(name)
        used[name] = leaf.origin
        used.update(leaf.used)
        return leaf.value
