"""What pydantic finds wrong in a file, in our words: which key, and what is right."""

import difflib

from pydantic import BaseModel
from pydantic_core import ErrorDetails


def explain(model: type[BaseModel], error: ErrorDetails) -> str:
    """Say in one line which key is wrong and what would be right."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _keys_at(model, error["loc"][:-1])
        return f"{key}: unknown key{nearest(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"{key}: must be given"
    if any(part in key for part in ("url", "api_base", "options")):
        # It may hold a password, and errors end in journals.
        return f"{key}: {error['msg']}"
    return f"{key}: {error['msg']} (it is {error['input']!r})"


def _keys_at(model: type[BaseModel], where: tuple[int | str, ...]) -> list[str]:
    for part in where:
        inner = model.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def nearest(word: str, known: list[str]) -> str:
    """Return the known word that may be meant, as the end of a sentence."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean {found[0]!r}?" if found else ""
