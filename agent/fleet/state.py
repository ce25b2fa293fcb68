"""What a device remembers of its fleet files: whole, or not at all.

One small file, `state`, says everything, and replacing it is the one moment in which
anything changes. It names signed files by their content; those lie beside it, written
before it and removed after it.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from agent.core.files import replace
from agent.fleet.signing import Content, Untrusted, opened

FOLDER = "fleet"  # below state.dir
STATE = "state"
SIGNED = ".signed.json"

Status = Literal["none", "applied", "held", "refused", "probation", "rolled_back"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Ref(_Value):
    """A fleet file: its version, and what its content is named by."""

    version: int
    sha256: str


class ProbationRecord(_Value):
    """A trial: in which boot of the machine it began, and after how many others.

    `boot` is empty until it begins, and after an orderly end. `alerts` were active
    before.
    """

    boot: str = ""
    reboots: int = 0
    alerts: tuple[str, ...] = ()


class RolloutState(_Value):
    """Everything a device remembers.

    `desired` is the newest version seen, `applied` what shall run, `last_good` what to
    go back to, `given_up` what was taken back; None is the device's own files alone.
    """

    v: Literal[1] = 1
    desired: Ref | None = None
    applied: Ref | None = None
    last_good: Ref | None = None
    given_up: Ref | None = None
    probation: ProbationRecord | None = None
    status: Status = "none"
    reason: str | None = None
    since: str = ""


class StateStore:
    """Owns the folder."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read or written yet."""
        self._folder = folder

    def read(self) -> RolloutState:
        """Return what was committed last; raises OSError.

        A damaged state is as none at all: `set_aside` then, and look at the topic.
        """
        try:
            data = (self._folder / STATE).read_bytes()
        except FileNotFoundError:
            return RolloutState()
        digest, _, document = data.partition(b"\n")
        if digest != _digest(document):
            raise Damaged(f"{self._folder / STATE} is damaged")
        try:
            return RolloutState.model_validate_json(document)
        except ValidationError as error:  # of another version of the software
            raise Damaged(f"{self._folder / STATE}: {error.errors()[0]['msg']}") from (
                error
            )

    def set_aside(self) -> None:
        """Move a damaged state out of the way; raises OSError."""
        path = self._folder / STATE
        path.replace(path.with_suffix(".damaged"))

    def content(self, ref: Ref) -> Content:
        """Return a fleet file committed before; raises Untrusted if it is damaged."""
        path = self._folder / f"{ref.sha256}{SIGNED}"
        try:
            content = opened(path.read_bytes())
        except OSError as error:
            raise Untrusted(f"{path}: {error.strerror or error}") from error
        if content.digest != ref.sha256:
            raise Untrusted(f"{path} is damaged")
        return content

    def commit(self, state: RolloutState, signed: Mapping[Ref, bytes]) -> None:
        """Remember a state, with files it names that are new; raises OSError."""
        for ref, data in signed.items():
            replace(self._folder / f"{ref.sha256}{SIGNED}", data)
        document = state.model_dump_json().encode()
        replace(self._folder / STATE, _digest(document) + b"\n" + document)
        self._clean(state)

    def _clean(self, state: RolloutState) -> None:
        """Remove what no state names any more; what stays behind does no harm."""
        named = {ref.sha256 for ref in (state.applied, state.last_good) if ref}
        with suppress(OSError):
            for path in self._folder.glob(f"*{SIGNED}*"):
                if path.name.removesuffix(SIGNED) not in named:
                    path.unlink()


class Damaged(Exception):
    """The disk lost what we remembered."""


def _digest(document: bytes) -> bytes:
    return hashlib.sha256(document).hexdigest().encode("ascii")
