"""The device's side: which fleet file is believed, applied, kept or taken back.

No MQTT, no daemon, no clock of its own: all that is injected. Everything here blocks
(files, and the self-check opens bundles), so the daemon calls it in a thread, one call
at a time:

    device = FleetDevice(...)
    effective = device.begin()          # at each start: what to run; None: own files
    outcome = device.offer(payload)     # a signed file came, by topic or from disk
    if outcome.switch:                  # run outcome.effective from now on, then say
        device.switched()               #   so: its probation begins. Or end orderly:
                                        #   the next process begins with it
    outcome = device.judge(problem)     # now and then; may end a probation either way
    outcome = device.blame(fault)       # what runs has broken something: go back
    outcome = device.fail(reason)       # what runs, or was to run, cannot: go back
    device.rest()                       # an orderly end of the process
    device.resume()                     # or not its end, after all
    device.report()                     # after each of these, for slm/<device>/fleet
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from agent.core.clock import Clock
from agent.core.errors import ConfigError
from agent.fleet.memory import FleetMemory
from agent.fleet.parse import Fleet, read
from agent.fleet.resolve import Effective, Local, Resolver, check_pins, check_room
from agent.fleet.signing import Untrusted, verified
from agent.fleet.state import Event, ProbationRecord, Ref, Status

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

log = structlog.get_logger()

NAME = "fleet.toml"  # what errors call a file that came by a topic
REBOOTS = 2  # of the machine within a probation; power fails, but not for ever


@dataclass(frozen=True, slots=True)
class RolloutOutcome:
    """What became of it; with `switch`, `effective` is to run from now on.

    `effective` None: the device's own files alone.
    """

    status: Status
    reason: str | None
    switch: bool = False
    effective: Effective | None = None


class FleetDevice:
    """Owns the folder where a device remembers its fleet files."""

    def __init__(
        self,
        folder: Path,
        local: Local,
        keys: Mapping[str, "Ed25519PublicKey"],
        self_check: Callable[[Effective], None],
        probation_s: float,
        clock: Clock,
    ) -> None:
        """Read what is remembered. `self_check` raises ConfigError."""
        self._memory = FleetMemory(folder, clock.wall)
        self._local = local
        self._keys = keys
        self._self_check = self_check
        self._probation_s = probation_s
        self._clock = clock
        self._running: Effective | None = None
        self._next: Effective | None = None  # what was told to run, and does not yet
        self._deadline: float | None = None
        self._rested: float | None = None  # the deadline before `rest`
        self._tried: str | None = None  # the content that this process judged last
        self._alerts: tuple[str, ...] = ()  # active as the last file came

    # -- what runs

    @property
    def running(self) -> Effective | None:
        """What runs; None: the device's own files alone."""
        return self._running

    @property
    def on_probation(self) -> bool:
        """Whether what runs must still prove itself."""
        return self._memory.state.probation is not None

    @property
    def damage(self) -> str:
        """What an alert says of a damaged memory; empty: it was whole."""
        return self._memory.damage

    @property
    def alerts(self) -> frozenset[str]:
        """Which alerts were active before what is on probation came."""
        trial = self._memory.state.probation
        return frozenset(trial.alerts if trial else ())

    def last_good(self) -> Effective | None:
        """Return what a failure brings back; None: the device's own files alone."""
        try:
            return self._reopened(self._memory.state.last_good)
        except ConfigError:
            return None

    def begin(self) -> Effective | None:
        """Return what this process shall run; raises nothing.

        Begins its probation, or falls back where that ended badly before.
        """
        trial = self._memory.state.probation
        ended = self._ended_badly(trial) if trial else None
        if ended:
            return self.fail(ended).effective
        try:
            self._running = self._reopened(self._memory.state.applied)
        except ConfigError as error:
            return self.fail(str(error)).effective
        self._begin_trial()
        return self._running

    def switched(self) -> None:
        """Note that this process now runs what the last outcome told it to."""
        if self._next is not None:
            self._running, self._next = self._next, None
            self._begin_trial()

    def _begin_trial(self) -> None:
        trial = self._memory.state.probation
        if trial is not None:
            reboots = trial.reboots + bool(trial.boot)
            begun = {"boot": self._clock.boot, "reboots": reboots}
            self._memory.probe(trial.model_copy(update=begun))
            self._deadline = self._clock.running() + self._probation_s

    def _ended_badly(self, trial: ProbationRecord) -> str | None:
        if trial.boot == self._clock.boot:
            return "the process ended unexpectedly while it was on probation"
        if trial.boot and trial.reboots >= REBOOTS:
            return (
                f"the machine restarted {REBOOTS + 1} times while it was on probation"
            )
        return None

    def _reopened(self, ref: Ref | None) -> Effective | None:
        """Return what a file makes of this device now; raises ConfigError."""
        if ref is None:
            return None
        try:
            fleet = read(self._memory.content(ref), NAME)
            effective = Resolver(fleet).resolve(self._local)
            check_pins(effective)
        except (ConfigError, Untrusted) as error:
            raise ConfigError(str(error)) from error
        except Exception as error:  # not even a bug may keep a device from starting
            log.exception("fleet_file_not_opened")
            raise ConfigError(repr(error)) from error
        return effective

    # -- what comes

    def offer(
        self, data: bytes, *, again: bool = False, alerts: Collection[str] = ()
    ) -> RolloutOutcome:
        """Take a signed fleet file for what it is worth.

        What was held or refused before is judged anew once in each process, or `again`
        on demand: a bundle may have arrived meanwhile. `alerts` are active already.
        """
        self._alerts = tuple(sorted(alerts))
        try:
            return self._offered(data, again=again)
        except Exception as error:
            # Nothing is applied yet, and a file that kills us would do so at every
            # start: its topic is retained.
            log.exception("fleet_file_not_judged")
            self._memory.note("refused", f"it cannot be judged: {error!r}")
            return self._outcome()

    def _offered(self, data: bytes, *, again: bool) -> RolloutOutcome:
        try:
            content = verified(data, self._keys)
            if content.digest == self._tried and not again:
                return self._recalled()
            fleet = read(content, NAME)
            ref = Ref(version=fleet.version, sha256=content.digest)
            self._check_age(ref)
        except (Untrusted, ConfigError) as error:
            # Not written down: whoever may publish could make us write for ever.
            self._memory.note("refused", str(error))
            return self._outcome()
        self._tried = content.digest
        state = self._memory.state
        if ref in {state.applied, state.given_up} and not self._crippled:
            return self._recalled()
        return self._judged(ref, fleet, data)

    @property
    def _crippled(self) -> bool:
        """Whether what shall run cannot, so that the device's own files do."""
        idle = self._running is None and self._next is None
        return idle and self._memory.state.applied is not None

    def _recalled(self) -> RolloutOutcome:
        """Say again what was said of this file before anything else came."""
        if not self._crippled:
            self._memory.clear()
        return self._outcome()

    def _check_age(self, ref: Ref) -> None:
        newest = self._memory.state.desired
        if newest is None:
            return
        if ref.version < newest.version:
            raise Untrusted(
                f"version {ref.version} is older than {newest.version}, which was here "
                "before; to go back, give the old values a new version"
            )
        if ref.version == newest.version and ref != newest:
            raise Untrusted(
                f"version {ref.version} was another file before "
                f"({newest.sha256[:12]}..., now {ref.sha256[:12]}...); give it a new "
                "version"
            )

    def _judged(self, ref: Ref, fleet: Fleet, data: bytes) -> RolloutOutcome:
        labels = fleet.labels(self._local.id, self._local.labels)
        rollout = fleet.file.rollout
        if rollout and not fleet.takes(self._local.id, labels):
            why = f"not yet its turn: {rollout.percent:g} % of {rollout.name!r}"
            return self._put_off(Event.HELD, why, ref)
        try:
            effective = Resolver(fleet).resolve(self._local)
            if self._is_the_same(effective):
                return self._renamed(ref, effective, data)
            check_pins(effective)
            check_room(effective, len(data))
            self._self_check(effective)
        except ConfigError as error:
            return self._put_off(Event.REFUSED, str(error), ref)
        return self._applied(ref, effective, data)

    def _put_off(self, event: Event, why: str, ref: Ref) -> RolloutOutcome:
        if not self._memory.settle(event, ref, why):
            self._tried = None  # there may be room the next time
        return self._outcome()

    def _applied(self, ref: Ref, effective: Effective, data: bytes) -> RolloutOutcome:
        state = self._memory.state
        alerts = state.probation.alerts if state.probation else self._alerts
        if ref == state.applied:  # it proved itself before, and can run again
            self._memory.restore(ref, data)
        elif not self._memory.settle(Event.STARTED, ref, signed=data, alerts=alerts):
            self._tried = None
            return self._outcome()
        self._next, self._deadline = effective, None
        return self._outcome(switch=True)

    def _is_the_same(self, effective: Effective) -> bool:
        shall = self._next or self._running
        return shall is not None and effective.content == shall.content

    def _renamed(self, ref: Ref, effective: Effective, data: bytes) -> RolloutOutcome:
        """Take a version that changes nothing here: no switch, no new probation."""
        if not self._memory.settle(Event.RENAMED, ref, signed=data):
            self._tried = None
        elif self._next is not None:
            self._next = effective
        else:
            self._running = effective
        return self._outcome()

    # -- how it does

    def judge(self, problem: str | None, *, known: bool = True) -> RolloutOutcome:
        """Say how the device does; at the end of a probation that decides.

        `known` False: nobody can tell, for the network is down and this version did not
        touch the way there. The probation then lasts until somebody can.
        """
        if self._deadline is None or self._clock.running() < self._deadline:
            return self._outcome()
        if not known:
            return self._outcome()
        if problem is not None:
            return self.fail(f"not well after {self._probation_s:g} s: {problem}")
        self._deadline = None
        # Another version may have been held or refused meanwhile: that stays said.
        self._memory.keep(Event.PROVEN, self._memory.state.reason)
        return self._outcome()

    def blame(self, fault: str) -> RolloutOutcome:
        """Go back at once, for what is on probation has broken something."""
        if self._deadline is None:
            return self._outcome()
        passed = self._probation_s - (self._deadline - self._clock.running())
        return self.fail(f"not well after {passed:.0f} s: {fault}")

    def fail(self, reason: str) -> RolloutOutcome:
        """Go back: to the last good version, and where that fails to the own files.

        A version that proved itself before is not given up for ever: the next start
        tries it again.
        """
        self._deadline = self._next = None
        before, state = self._running, self._memory.state
        if state.probation is not None and state.applied is not None:
            which = f"version {state.applied.version}"
            self._memory.keep(Event.TAKEN_BACK, f"{which}: {reason}")
            try:
                self._running = self._reopened(state.last_good)
            except ConfigError as error:
                reason = str(error)
            else:
                return self._outcome(switch=not _same(before, self._running))
        self._running = None
        applied = self._memory.state.applied
        which = f"version {applied.version}" if applied else "the own configuration"
        self._memory.note("refused", f"{which} cannot be used: {reason}")
        return self._outcome(switch=before is not None)

    def rest(self) -> None:
        """Note that the process ends, or begins again, as it should."""
        self._rested, self._deadline = self._deadline, None
        trial = self._memory.state.probation
        if trial is not None and trial.boot:
            self._memory.probe(trial.model_copy(update={"boot": ""}))

    def resume(self) -> None:
        """Note that the process goes on as if `rest` had not been."""
        trial = self._memory.state.probation
        if self._rested is None or trial is None:
            return
        self._rested, self._deadline = None, self._rested
        self._memory.probe(trial.model_copy(update={"boot": self._clock.boot}))

    # -- what is told

    def report(self) -> dict[str, Any]:
        """Return the JSON object for the retained topic slm/<device>/fleet."""
        state = self._memory.state
        status, reason, since = self._memory.said
        running = self._running
        return {
            "v": 1,
            "device": self._local.id,
            "desired": state.desired and state.desired.version,
            "applied": running and running.version,
            "last_good": state.last_good and state.last_good.version,
            "state": status,
            "reason": reason,
            "since": since or None,
            "probation": self.on_probation,
            "config_sha256": running and running.config.hash,
            "local": running.drift() if running else [],
        }

    def _outcome(self, *, switch: bool = False) -> RolloutOutcome:
        status, reason, _ = self._memory.said
        return RolloutOutcome(status, reason, switch, self._next or self._running)


def _same(one: Effective | None, other: Effective | None) -> bool:
    return (one and one.content) == (other and other.content)
