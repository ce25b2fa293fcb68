"""What a device remembers of its fleet, and what it says of it meanwhile."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from agent.core.quarantine import Damaged
from agent.fleet.signing import Content, Untrusted
from agent.fleet.state import (
    Event,
    ProbationRecord,
    Ref,
    RolloutState,
    StateStore,
    Status,
    after,
)
from agent.protocol.messages import iso


class FleetMemory:
    """Owns the state: on disk what counts, aside what is only said.

    What is said aside lasts until the next word or the next start. So whoever can only
    send us rubbish does not wear out the SD card.
    """

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        """Read what was remembered; `now` tells Unix time."""
        self._store = StateStore(folder)
        self._now = now
        self._aside: tuple[Status, str, str] | None = None
        self.state = RolloutState()
        self.damage = ""
        try:
            remembered = self._store.read()
            if not remembered.is_possible:  # what could happen next, nobody knows
                raise Damaged("what the device remembers contradicts itself")  # noqa: TRY301
            self.state = remembered
        except Damaged as error:
            self.note("refused", f"{error}; waiting for the fleet file to come again")
            self.damage = self._store.without(str(error))

    @property
    def said(self) -> tuple[Status, str | None, str]:
        """Status, reason, and since when."""
        return self._aside or (self.state.status, self.state.reason, self.state.since)

    def content(self, ref: Ref) -> Content:
        """Return a fleet file remembered; raises Untrusted."""
        return self._store.content(ref)

    def note(self, status: Status, reason: str) -> None:
        """Say something aside."""
        if self._aside is None or self._aside[:2] != (status, reason):
            self._aside = (status, reason, self._date())

    def _date(self) -> str:
        return iso(datetime.fromtimestamp(self._now(), UTC))

    def restore(self, ref: Ref, signed: bytes) -> None:
        """Store a fleet file again that is remembered, but that the disk damaged."""
        self.clear()
        try:
            self._store.content(ref)
        except Untrusted:
            try:
                self._store.store(ref, signed)
            except OSError as error:
                self.note("refused", f"state.dir: {error.strerror or error}")

    def clear(self) -> None:
        """Say again what is remembered."""
        self._aside = None

    def settle(
        self,
        event: Event,
        ref: Ref,
        reason: str | None = None,
        *,
        signed: bytes | None = None,
        alerts: tuple[str, ...] = (),
    ) -> bool:
        """Remember what became of a version that came.

        False, and refused, where the disk does not take it. `signed` is its file, if it
        is to be kept.
        """
        self._aside = None
        new = self._dated(after(self.state, event, ref, alerts), reason)
        try:
            self._commit(new, {} if signed is None else {ref: signed})
        except OSError as error:
            self.note("refused", f"state.dir: {error.strerror or error}")
            return False
        return True

    def keep(self, event: Event, reason: str | None = None) -> None:
        """Remember what became of what runs, if only until the next start."""
        self._aside = None
        self._hold(self._dated(after(self.state, event), reason))

    def probe(self, record: ProbationRecord) -> None:
        """Remember how far a probation is, if only until the next start."""
        self._hold(self.state.model_copy(update={"probation": record}))

    def _hold(self, new: RolloutState) -> None:
        try:
            self._commit(new, {})
        except OSError as error:
            self.state = new
            why = f"state.dir: {error.strerror or error}"
            self.note(new.status, f"{new.reason}; {why}" if new.reason else why)

    def _dated(self, new: RolloutState, reason: str | None) -> RolloutState:
        same = (new.status, reason) == (self.state.status, self.state.reason)
        since = self.state.since if same else self._date()
        return new.model_copy(update={"reason": reason, "since": since})

    def _commit(self, new: RolloutState, signed: Mapping[Ref, bytes]) -> None:
        """Replace what is remembered; after an error, what the disk has counts."""
        if new == self.state:
            return
        try:
            self._store.commit(new, signed)
        except OSError:
            if not self._is_there(new):
                raise
        self.state = new

    def _is_there(self, state: RolloutState) -> bool:
        try:
            return self._store.read() == state
        except Damaged:
            return False
