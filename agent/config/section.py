"""What the models of both kinds of file are made of: a table, names, places, limits."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
)

MOST = 10**15  # of what is counted: no limit, and no number is too long for SQLite
YEAR_S = 366 * 86_400


def _beside(path: Path, info: ValidationInfo) -> Path:
    """Take a relative path as beside the file that names it."""
    if "\0" in str(path):
        raise ValueError("has a NUL character, as no path has")
    return info.context / path if isinstance(info.context, Path) else path


Place = Annotated[Path, Field(strict=False), AfterValidator(_beside)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]


@cache
def shipped(folder: str) -> Path:
    """Return a data folder: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / folder
    return inside if inside.is_dir() else package.parent / folder


def default_state(name: str) -> Path:
    """Return where state is kept if nobody says: systemd's folder, or the user's.

    $STATE_DIRECTORY, else /var/lib/<name> for root and where it is there already, else
    $XDG_STATE_HOME/<name>, by default ~/.local/state/<name>.
    """
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    system = Path("/var/lib") / name
    home = os.environ.get("HOME")
    users = os.environ.get("XDG_STATE_HOME") or (home and f"{home}/.local/state")
    if os.geteuid() == 0 or os.path.lexists(system) or not users:
        return system
    return Path(users) / name


class Section(BaseModel):
    """A table of a configuration file."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


@dataclass(frozen=True, slots=True)
class Limit:
    """What a scope may spend in a day; None: as much as it likes."""

    scope: str
    calls: int | None
    tokens: int | None
    micros: int | None


class Limits(Section):
    """What may be spent upstream in a day (UTC); absent: no limit."""

    calls_per_day: Annotated[int, Field(ge=0, le=MOST)] | None = None
    """Most calls."""
    tokens_per_day: Annotated[int, Field(ge=0, le=MOST)] | None = None
    """Most tokens, in and out."""
    money_per_day: Annotated[float, Field(ge=0, lt=1e6)] | None = None
    """Most money, in the currency of the prices, which it needs."""

    @property
    def any(self) -> bool:
        """Whether anything is limited."""
        return any(value is not None for value in self.model_dump().values())
