"""Explain pydantic's errors in our words: which key is wrong, and what is right."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from agent.core.words import nearest, printable, quoted

NAME = "^[A-Za-z0-9_-]+$"

Context = Mapping[str, Any]

# By pydantic's type of error; other types keep pydantic's words.
WORDS: Mapping[str, Callable[[Context], str]] = {
    "missing": lambda _: "must be given",
    "string_type": lambda _: "must be a text in quotes",
    "int_type": lambda _: "must be a whole number",
    "int_from_float": lambda _: "must be a whole number",
    "float_type": lambda _: "must be a number",
    "finite_number": lambda _: "must be a finite number",
    "bool_type": lambda _: "must be true or false",
    "list_type": lambda _: "must be a list, as [...]",
    "tuple_type": lambda _: "must be a list, as [...]",
    "dict_type": lambda _: "must be a table",
    "model_type": lambda _: "must be a table",
    "model_attributes_type": lambda _: "must be a table",
    "literal_error": lambda of: f"must be {of['expected']}",
    "union_tag_invalid": lambda of: f"must be one of {of['expected_tags']}",
    "union_tag_not_found": lambda _: "must be given",
    "greater_than": lambda of: f"must be more than {of['gt']:g}",
    "greater_than_equal": lambda of: f"must be at least {of['ge']:g}",
    "less_than": lambda of: f"must be less than {of['lt']:g}",
    "less_than_equal": lambda of: f"must be at most {of['le']:g}",
    "too_short": lambda of: f"needs at least {of['min_length']}",
    "too_long": lambda of: f"may have at most {of['max_length']}",
    "string_too_short": lambda of: f"needs at least {of['min_length']} characters",
    "string_too_long": lambda of: f"may have at most {of['max_length']} characters",
    "string_pattern_mismatch": lambda of: (
        "may have letters, digits, _ and - only, and not be empty"
        if of["pattern"] == NAME
        else f"must be of the form {of['pattern']}"
    ),
    "value_error": lambda of: str(of["error"]),
    "json_invalid": lambda of: f"is no JSON object: {of['error']}",
}


# The same in JSON.
OBJECTS = {"dict_type", "model_type", "model_attributes_type"}


def explain(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Return one line for each error: which key is wrong, and what would be right.

    No line holds a value that may be a secret.
    """
    return [explain_one(model, details) for details in error.errors()]


def explain_one(model: type[BaseModel], details: ErrorDetails) -> str:
    """Return one line: which key is wrong, and what would be right."""
    path = key_path(model, details["loc"])
    keys = (*path.keys, *_discriminator(details))
    if details["type"] == "extra_forbidden":
        return _sentence(keys, _unknown(path))
    words = _words(details)
    if details["type"] not in {"missing", "value_error", "union_tag_not_found"}:
        words += quoted(".".join(keys), _tag(details) or details["input"])
    return _sentence(keys, words)


def _discriminator(details: ErrorDetails) -> tuple[str, ...]:
    """Return the key that chooses among tables, if its value is the error."""
    if details["type"] not in {"union_tag_not_found", "union_tag_invalid"}:
        return ()
    return (str(details["ctx"]["discriminator"]).strip("'"),)


def _tag(details: ErrorDetails) -> str:
    return str(details.get("ctx", {}).get("tag", ""))


def first(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Return one line about the first error, without the value: it may be personal."""
    details = error.errors(include_url=False)[0]
    keys = (*(str(part) for part in details["loc"]), *_discriminator(details))
    if details["type"] == "extra_forbidden":
        words = _unknown(key_path(model, details["loc"])) if model else "unknown key"
        return _sentence(keys, words)
    if details["type"] in OBJECTS:
        return _sentence(keys, "must be an object")
    return _sentence(keys, _words(details))


LONGEST_KEY = 300  # characters of a key that an error quotes


def clipped(key: str) -> str:
    """Return a key, or its beginning where nobody would read the rest."""
    return key if len(key) <= LONGEST_KEY else f"{key[:LONGEST_KEY]}..."


def _sentence(keys: tuple[str, ...], words: str) -> str:
    key = clipped(".".join(keys))
    return printable(f"{key}: {words}" if key else words)


def _words(details: ErrorDetails) -> str:
    words = WORDS.get(details["type"])
    return words(details.get("ctx", {})) if words else details["msg"]


@dataclass(frozen=True, slots=True)
class KeyPath:
    """The place of an error in a file: the keys, and tables that may hold the last key.

    If a key chooses among tables, `choice` names it and its value, and the chosen table
    comes first.
    """

    keys: tuple[str, ...]
    tables: tuple[type[BaseModel], ...]
    choice: str = ""


def key_path(model: type[BaseModel], where: tuple[int | str, ...]) -> KeyPath:
    """Return the place of an error, from pydantic's `loc`."""
    keys: tuple[str, ...] = ()
    path, inside, choice = KeyPath((), ()), [model], ""
    parts = iter(where)
    for part in parts:
        keys = (*keys, str(part))
        path = KeyPath(keys, tuple(inside), choice)
        field = inside[0].model_fields.get(str(part)) if inside else None
        inside, choice = _tables(field.annotation) if field else [], ""
        if field is None:
            continue
        if get_origin(field.annotation) in {dict, list}:  # a name or an index follows
            keys = (*keys, *(str(each) for each in islice(parts, 1)))
            path = KeyPath(keys, ())
        elif isinstance(field.discriminator, str):
            by, tag = field.discriminator, next(parts, None)  # in no file: pydantic's
            inside.sort(key=lambda table: tag not in _tags(table, by))
            choice = f"{by} {tag!r}"
    return path


def _tables(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for part in get_args(annotation) for table in _tables(part)]


def _tags(table: type[BaseModel], discriminator: str) -> tuple[Any, ...]:
    return get_args(table.model_fields[discriminator].annotation)


def _unknown(path: KeyPath) -> str:
    """Return the error of an unknown key: a typo, or a key of a table not chosen."""
    name = path.keys[-1]
    if any(name in other.model_fields for other in path.tables[1:]):
        return f"means nothing to {path.choice}"
    fields = list(path.tables[0].model_fields) if path.tables else []
    return f"unknown key{nearest(name, fields)}"
