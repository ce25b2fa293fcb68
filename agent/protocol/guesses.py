"""The local guess in a request: no more of it than an honest device has to say."""

from collections.abc import Mapping
from typing import Any

from agent.core.types import Tier

MOST_ENTITIES = 500


def restricted(guess: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return a guess without what its device could have made up to lead a model on.

    `known` are text, labels and entities of its request, as far as they are valid.
    """
    text, labels = known.get("text", ""), known.get("labels", {})
    by, label, entities = (guess.get(key) for key in ("by", "label", "entities"))
    return {
        "by": by if by in set(Tier) else None,
        "label": label if isinstance(label, str) and label in labels else None,
        "score": _number(guess.get("score")),
        "entities": [
            {
                "label": entity["label"],
                "score": _number(entity.get("score")),
                "text": entity["text"],
            }
            for entity in (entities if isinstance(entities, list) else [])
            if isinstance(entity, dict)
            and isinstance(entity.get("label"), str)
            and entity["label"] in known.get("entities", {})
            and isinstance(entity.get("text"), str)
            and entity["text"] in text
        ][:MOST_ENTITIES],
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
