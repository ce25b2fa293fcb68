"""What pydantic finds wrong in a file, in our words: which key, and what is right."""

import difflib
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails


def explain(model: type[BaseModel], error: ErrorDetails) -> str:
    """Say in one line which key is wrong and what would be right."""
    found = key_path(model, error["loc"])
    key = ".".join(found.keys)
    match error["type"]:
        case "extra_forbidden":
            why = _unknown(found)
        case "missing":
            why = "must be given"
        case "union_tag_not_found":
            key, why = f"{key}.{_discriminator(error)}", "must be given"
        case "union_tag_invalid":
            key = f"{key}.{_discriminator(error)}"
            expected, tag = error["ctx"]["expected_tags"], error["ctx"]["tag"]
            why = f"Input should be one of {expected} (it is {tag!r})"
        case _ if any(part in key for part in ("url", "api_base", "options")):
            why = error["msg"]  # its value may hold a password; errors end in journals
        case _:
            why = f"{error['msg']} (it is {error['input']!r})"
    return f"{key}: {why}"


@dataclass(frozen=True, slots=True)
class KeyPath:
    """Where in a file an error is: the keys, and the tables that may hold the last.

    Where a key chooses among tables, `choice` names it and its value, and the table
    that is chosen comes first.
    """

    keys: tuple[str, ...]
    tables: tuple[type[BaseModel], ...]
    choice: str = ""


def key_path(model: type[BaseModel], where: tuple[int | str, ...]) -> KeyPath:
    """Return the place that an error of pydantic names."""
    keys: tuple[str, ...] = ()
    found, inside, choice = KeyPath((), ()), [model], ""
    parts = iter(where)
    for part in parts:
        keys = (*keys, str(part))
        found = KeyPath(keys, tuple(inside), choice)
        field = inside[0].model_fields.get(str(part)) if inside else None
        inside, choice = _tables(field), ""
        if field and isinstance(field.discriminator, str):
            by, tag = field.discriminator, next(parts, None)  # in no file: pydantic's
            inside.sort(key=lambda table: tag not in _tags(table, by))
            choice = f"{by} {tag!r}"
    return found


def _tables(field: FieldInfo | None) -> list[type[BaseModel]]:
    if field is None or get_origin(field.annotation) in {dict, list}:
        return []
    kinds = [field.annotation, *get_args(field.annotation)]
    return [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]


def _tags(table: type[BaseModel], discriminator: str) -> tuple[Any, ...]:
    return get_args(table.model_fields[discriminator].annotation)


def _discriminator(error: ErrorDetails) -> str:
    return str(error["ctx"]["discriminator"]).strip("'")


def _unknown(found: KeyPath) -> str:
    """Say what an unknown key may be: a typo, or of a table that is not chosen."""
    name = found.keys[-1]
    if any(name in other.model_fields for other in found.tables[1:]):
        return f"means nothing to {found.choice}"
    known = list(found.tables[0].model_fields) if found.tables else []
    return f"unknown key{nearest(name, known)}"


def nearest(word: str, known: list[str]) -> str:
    """Return the known word that may be meant, as the end of a sentence."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean {found[0]!r}?" if found else ""
