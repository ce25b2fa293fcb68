"""What a device remembers of its fleet files: whole, or not at all.

`TRANSITIONS` is the life of a version on a device; nothing else changes its status.

One small file, `state`, says everything, and replacing it is the one moment in which
anything changes. It names signed files by their content; those lie beside it, written
before it and removed after it.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from agent.core.files import replace
from agent.core.quarantine import Damaged, read_state, without
from agent.fleet.signing import LARGEST, Content, Untrusted, opened

FOLDER = "fleet"  # below state.dir
STATE = "state"
SIGNED = ".signed.json"
LARGEST_STATE = 2**20  # bytes

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

    @property
    def phase(self) -> "Phase":
        """Where the device stands."""
        return self.status, self.probation is not None

    @property
    def is_possible(self) -> bool:
        """Whether events can lead here."""
        if self.probation is not None and self.applied is None:
            return False
        return self.phase in TRANSITIONS


# What is said of `desired`, and whether what runs is on probation: that may be an
# older version than the one that is held or refused.
Phase = tuple[Status, bool]


class Event(StrEnum):
    """What happens to a version once its signature and its number are believed."""

    HELD = "held"  # its turn has not come
    REFUSED = "refused"  # it cannot run here
    STARTED = "started"  # its values are new here: it runs, on probation
    RENAMED = "renamed"  # its values run already
    PROVEN = "proven"  # what runs was well until the end of its probation
    TAKEN_BACK = "taken_back"  # what runs on probation cannot stay


class IllegalTransition(Exception):
    """A bug: something happened to a version that cannot happen to it."""


_ANY: Mapping[Event, Phase] = {
    Event.HELD: ("held", False),
    Event.REFUSED: ("refused", False),
    Event.STARTED: ("probation", True),
}
_PROVEN_BEFORE: Mapping[Event, Phase] = {**_ANY, Event.RENAMED: ("applied", False)}
_ON_PROBATION: Mapping[Event, Phase] = {
    Event.HELD: ("held", True),
    Event.REFUSED: ("refused", True),
    Event.STARTED: ("probation", True),
    Event.RENAMED: ("probation", True),
    Event.TAKEN_BACK: ("rolled_back", False),
}
TRANSITIONS: Mapping[Phase, Mapping[Event, Phase]] = {
    ("none", False): _ANY,
    ("held", False): _PROVEN_BEFORE,
    ("refused", False): _PROVEN_BEFORE,
    ("applied", False): _PROVEN_BEFORE,
    ("rolled_back", False): _PROVEN_BEFORE,
    ("probation", True): {**_ON_PROBATION, Event.PROVEN: ("applied", False)},
    ("held", True): {**_ON_PROBATION, Event.PROVEN: ("held", False)},
    ("refused", True): {**_ON_PROBATION, Event.PROVEN: ("refused", False)},
}


def after(
    state: RolloutState,
    event: Event,
    ref: Ref | None = None,
    alerts: tuple[str, ...] = (),
) -> RolloutState:
    """Return what is remembered after an event; raises IllegalTransition.

    `ref` is the version that it happens to, where that is not the one that runs;
    `alerts` are active before it starts. Reason and date are the caller's to set.
    """
    phase = TRANSITIONS.get(state.phase, {}).get(event)
    if phase is None:
        raise IllegalTransition(f"{event} after {state.phase}")
    status, tries = phase
    changes: dict[str, Any] = {"status": status}
    if not tries:
        changes["probation"] = None
    match event:
        case Event.HELD | Event.REFUSED:
            changes |= {"desired": ref}
        case Event.STARTED:
            back = state.last_good if state.probation else state.applied
            began = ProbationRecord(alerts=alerts)
            changes |= {"desired": ref, "applied": ref, "last_good": back}
            changes |= {"probation": began}
        case Event.RENAMED:
            back = state.last_good if state.probation else ref
            changes |= {"desired": ref, "applied": ref, "last_good": back}
        case Event.PROVEN:
            changes |= {"last_good": state.applied}
        case Event.TAKEN_BACK:
            changes |= {"applied": state.last_good, "given_up": state.applied}
    return state.model_copy(update=changes)


class StateStore:
    """Owns the folder."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read or written yet."""
        self._folder = folder

    def read(self) -> RolloutState:
        """Return what was committed last; raises Damaged.

        A damaged state is as none at all: go on `without`, and look at the topic.
        """
        data = read_state(self._folder / STATE, LARGEST_STATE)
        if data is None:
            return RolloutState()
        digest, _, document = data.partition(b"\n")
        if digest != _digest(document):
            raise Damaged(f"{self._folder / STATE}: is damaged")
        try:
            return RolloutState.model_validate_json(document)
        except ValidationError as error:  # of another version of the software
            raise Damaged(f"{self._folder / STATE}: {error.errors()[0]['msg']}") from (
                error
            )

    def without(self, why: str) -> str:
        """Put a damaged state, or what is no folder, aside; return what to tell."""
        there = self._folder.is_dir()
        return without(self._folder / STATE if there else self._folder, why)

    def content(self, ref: Ref) -> Content:
        """Return a fleet file committed before; raises Untrusted if it is damaged."""
        path = self._folder / f"{ref.sha256}{SIGNED}"
        try:
            data = read_state(path, LARGEST)
        except Damaged as error:
            raise Untrusted(str(error)) from error
        if data is None:
            raise Untrusted(f"{path}: is gone")
        content = opened(data)
        if content.digest != ref.sha256:
            raise Untrusted(f"{path} is damaged")
        return content

    def store(self, ref: Ref, data: bytes) -> None:
        """Store a fleet file; raises OSError."""
        replace(self._folder / f"{ref.sha256}{SIGNED}", data)

    def commit(self, state: RolloutState, signed: Mapping[Ref, bytes]) -> None:
        """Remember a state, with files it names that are new; raises OSError."""
        for ref, data in signed.items():
            self.store(ref, data)
        document = state.model_dump_json().encode()
        replace(self._folder / STATE, _digest(document) + b"\n" + document)
        self._clean(state)

    def _clean(self, state: RolloutState) -> None:
        """Remove what no state names any more; what stays behind does no harm."""
        named = {ref.sha256 for ref in (state.applied, state.last_good) if ref}
        with suppress(OSError):
            for path in self._folder.glob(f"*{SIGNED}*"):
                if path.name.removesuffix(SIGNED) not in named and path.is_file():
                    path.unlink()


def _digest(document: bytes) -> bytes:
    return hashlib.sha256(document).hexdigest().encode("ascii")
