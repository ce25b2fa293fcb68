"""Read JSON Lines that people write: errors name the file and the line."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from agent.core.errors import ConfigError
from agent.core.explain import first
from agent.core.files import read_bytes

Record = TypeVar("Record", bound=BaseModel)


def read_text(path: Path) -> str:
    """Return a file's text, without a byte-order mark; raises ConfigError."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no text in UTF-8: {error.reason}") from error


def read_lines(path: Path, what: str) -> list[tuple[int, str]]:
    """Return the lines that are not blank, each with its number, from 1.

    `what` names the lines in the plural, for the error that there are none. Only a line
    feed ends a line, because JSON strings may hold Unicode's other separators. Raises
    ConfigError if the file cannot be read as UTF-8, or has no lines.
    """
    lines = read_text(path).split("\n")
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ConfigError(f"{path}: no {what}")
    return numbered


def read_records(path: Path, model: type[Record], what: str) -> list[Record]:
    """Return one record for each line that is not blank.

    `what` names the records in the plural. Raises ConfigError with file, line and field
    at the first line that is no such record.
    """
    records = []
    for number, line in read_lines(path, what):
        try:
            records.append(model.model_validate_json(line))
        except ValidationError as error:
            broken = error.errors(include_url=False)[0]["type"] == "json_invalid"
            hint = "; each line is an object of its own" if broken else ""
            why = f"{first(error, model)}{hint}"
            raise ConfigError(f"{path}:{number}: {why}") from error
    return records
