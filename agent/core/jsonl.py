"""JSON Lines from a person's disk: checked line by line, errors with file and line."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from agent.core.errors import ConfigError

Record = TypeVar("Record", bound=BaseModel)


def read_lines(path: Path, what: str) -> list[tuple[int, str]]:
    """Return the lines that are not blank, with their numbers; raises ConfigError.

    `what` the lines are, in the plural, for an error that says that there are none.

    Only a line feed ends a line: JSON strings may hold Unicode's other separators.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    found = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ConfigError(f"{path}: no {what}")
    return found


def read_records(path: Path, model: type[Record], what: str) -> list[Record]:
    """Read one record a line; raises ConfigError at the first that is wrong."""
    records = []
    for number, line in read_lines(path, what):
        try:
            records.append(model.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{path}:{number}: {where} {first['msg']}") from error
    return records
