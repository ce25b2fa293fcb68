"""The life of a version on a device: the table says all, also of states of 0.1."""

import os
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from test_fleet_state_machine import PROBATION_S, STAGED, Bench, toml

from agent.core.errors import ConfigError
from agent.fleet.memory import FleetMemory
from agent.fleet.resolve import Effective
from agent.fleet.state import (
    STATE,
    TRANSITIONS,
    Event,
    IllegalTransition,
    Phase,
    ProbationRecord,
    Ref,
    RolloutState,
    StateStore,
    Status,
    after,
)
from harness.fleets import Keys

# What version 0.1.0 wrote down: version 5 had proven itself before, except in the
# first; 6 was tried then, and 7 came while 6 was on probation.
WRITTEN = Path(__file__).parent / "fleet_0_1"
PHASES: dict[str, Phase] = {
    "refused_first": ("refused", False),
    "applied": ("applied", False),
    "held": ("held", False),
    "refused": ("refused", False),
    "rolled_back": ("rolled_back", False),
    "probation": ("probation", True),
    "rested": ("probation", True),
    "held_on_probation": ("held", True),
    "refused_on_probation": ("refused", True),
}
ILLEGAL = [
    (phase, event)
    for phase, event in product(product(get_args(Status), (False, True)), Event)
    if event not in TRANSITIONS.get(phase, {})
]
RAN = Ref(version=1, sha256="a" * 64)
CAME = Ref(version=2, sha256="b" * 64)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Return the fleet's keys."""
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for a disk."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


def written(name: str, folder: Path) -> Path:
    """Return a folder as version 0.1.0 left it."""
    state = folder / "state"
    state.mkdir(parents=True)
    for signed in WRITTEN.glob("*.signed.json"):
        shutil.copy(signed, state)
    shutil.copy(WRITTEN / f"{name}.state", state / STATE)
    return folder


def meant(phase: Phase, event: Event) -> Phase:
    """Return what the table is to say, in words."""
    status, tries = phase
    match event:
        case Event.HELD | Event.REFUSED:  # what runs goes on as it did
            return ("held" if event is Event.HELD else "refused"), tries
        case Event.STARTED:
            return "probation", True
        case Event.RENAMED:  # neither a new probation nor the end of one
            return ("probation", True) if tries else ("applied", False)
        case Event.PROVEN:  # what was said of a newer one stays said
            return ("applied" if status == "probation" else status), False
        case Event.TAKEN_BACK:
            return "rolled_back", False


def phase_of(bench: Bench) -> Phase:
    """Return what the device remembers, as its next process would read it."""
    state = FleetMemory(bench.folder / "state", lambda: 0.0).state
    assert state == bench.device._memory.state
    return state.phase


def refuse(_: Effective) -> None:
    """Find a version unfit."""
    raise ConfigError("a bundle is missing")


def cause_held(bench: Bench) -> None:
    """Offer a version whose turn has not come."""
    bench.offer(8, 8, STAGED.format(0))


def cause_refused(bench: Bench) -> None:
    """Offer a version that cannot run here."""
    bench.refuses = refuse
    bench.offer(8, 8)


def cause_started(bench: Bench) -> None:
    """Offer a version with other values."""
    bench.offer(8, 8)


def cause_renamed(bench: Bench) -> None:
    """Offer a version with the values that run."""
    assert bench.batch
    bench.offer(8, bench.batch)


def cause_taken_back(bench: Bench) -> None:
    """Find that it does not do well."""
    bench.seconds += PROBATION_S
    bench.device.judge("not connected")


CAUSES: dict[Event, Callable[[Bench], object]] = {
    Event.HELD: cause_held,
    Event.REFUSED: cause_refused,
    Event.STARTED: cause_started,
    Event.RENAMED: cause_renamed,
    Event.PROVEN: Bench.prove,
    Event.TAKEN_BACK: cause_taken_back,
}


@pytest.mark.parametrize("name", PHASES)
def test_states_of_0_1_are_read(name: str, tmp_path: Path, keys: Keys) -> None:
    """A device that is updated stands where it stood, and runs what it ran."""
    bench = Bench(written(name, tmp_path), keys)
    ran = bench.start(boot="second")
    assert phase_of(bench) == PHASES[name]
    assert ran == (None if name == "refused_first" else 6 if PHASES[name][1] else 5)
    assert bench.report["reason"] is None or "damaged" not in bench.report["reason"]


def test_a_crash_of_0_1_on_probation_is_seen(tmp_path: Path, keys: Keys) -> None:
    """The process of before died with a version on probation: it is taken back."""
    bench = Bench(written("probation", tmp_path), keys)
    assert bench.start(boot="first") == 5
    assert phase_of(bench) == ("rolled_back", False)


@pytest.mark.parametrize(
    ("name", "event"),
    [
        (name, event)
        for name, phase in PHASES.items()
        for event in TRANSITIONS[phase]
        if (name, event) != ("refused_first", Event.RENAMED)  # nothing runs
    ],
)
def test_a_device_goes_as_the_table_says(
    name: str, event: Event, tmp_path: Path, keys: Keys
) -> None:
    """Whatever happens to a version, it comes to stand where the table says."""
    bench = Bench(written(name, tmp_path), keys)
    bench.start(boot="second")
    CAUSES[event](bench)
    assert phase_of(bench) == meant(PHASES[name], event)


def test_the_first_version_on_a_device(tmp_path: Path, keys: Keys) -> None:
    """From nothing it is held, refused or started, and nothing else."""
    for event in TRANSITIONS["none", False]:
        bench = Bench(tmp_path / event, keys)
        bench.start()
        CAUSES[event](bench)
        assert phase_of(bench) == meant(("none", False), event)


@pytest.mark.parametrize(("phase", "event"), ILLEGAL)
def test_what_cannot_happen_is_an_error(phase: Phase, event: Event) -> None:
    """A transition that the table does not have is a bug, and no new state."""
    status, tries = phase
    state = RolloutState(
        status=status, applied=RAN, probation=ProbationRecord() if tries else None
    )
    with pytest.raises(IllegalTransition, match=event.value):
        after(state, event, CAME)


def test_illegal_transitions_are_many() -> None:
    """The table is no table that allows everything."""
    assert len(ILLEGAL) == 2 * len(get_args(Status)) * len(Event) - sum(
        map(len, TRANSITIONS.values())
    )
    assert len(ILLEGAL) > 30


def test_what_a_newer_one_leaves_on_probation() -> None:
    """The last good version stays the way back, until what runs is proven."""
    state = RolloutState(status="applied", applied=RAN, last_good=RAN, desired=RAN)
    tried = after(state, Event.STARTED, CAME, ("upstream_gone",))
    assert (tried.applied, tried.last_good) == (CAME, RAN)
    assert tried.probation == ProbationRecord(alerts=("upstream_gone",))
    newer = Ref(version=3, sha256="c" * 64)
    assert after(tried, Event.STARTED, newer).last_good == RAN
    assert after(tried, Event.RENAMED, newer).last_good == RAN
    assert after(tried, Event.HELD, newer).applied == CAME
    assert after(tried, Event.PROVEN).last_good == CAME
    back = after(tried, Event.TAKEN_BACK)
    assert (back.applied, back.given_up, back.probation) == (RAN, CAME, None)
    assert after(state, Event.RENAMED, CAME).last_good == CAME


@pytest.mark.parametrize(
    "state",
    [
        RolloutState(status="probation"),
        RolloutState(status="applied", applied=RAN, probation=ProbationRecord()),
        RolloutState(status="probation", probation=ProbationRecord()),
    ],
)
def test_a_state_that_contradicts_itself_is_damaged(
    state: RolloutState, tmp_path: Path
) -> None:
    """What no version of the software writes is not believed; the topic says more."""
    StateStore(tmp_path).commit(state, {})
    memory = FleetMemory(tmp_path, lambda: 0.0)
    status, reason, _ = memory.said
    assert (memory.state, status) == (RolloutState(), "refused")
    assert "contradicts itself; waiting for the fleet file" in str(reason)
    assert not (tmp_path / STATE).exists()


class Device(RuleBasedStateMachine):
    """Whatever happens to a device, in whatever order."""

    @initialize()
    def begin(self) -> None:
        """Begin with nothing."""
        self.folder = TemporaryDirectory()
        self.bench = Bench(Path(self.folder.name), Keys(Path(self.folder.name)))
        self.bench.start()
        self.version = 0
        self.before: Phase = ("none", False)

    def new(self) -> int:
        """Return the next version."""
        self.version += 1
        return self.version

    @rule(batch=st.integers(1, 3), percent=st.sampled_from([0, 100]))
    def offer(self, batch: int, percent: int) -> None:
        """Offer a version, perhaps with values that run, or were taken back."""
        self.bench.offer(self.new(), batch, STAGED.format(percent))

    @rule(batch=st.integers(1, 3))
    def offer_what_is_unfit(self, batch: int) -> None:
        """Offer a version that the self-check refuses."""
        self.bench.refuses = refuse
        self.bench.offer(self.new(), batch)
        self.bench.refuses = lambda _: None

    @rule(batch=st.integers(1, 3))
    def offer_and_end(self, batch: int) -> None:
        """Offer a version, and end before it runs."""
        signed = self.bench.keys.signed(toml(self.new(), batch))
        self.bench.device.offer(signed)
        self.bench.start()

    @precondition(lambda self: self.version)
    @rule(batch=st.integers(1, 3))
    def offer_again(self, batch: int) -> None:
        """Offer a number that was there, with these values or others."""
        self.bench.offer(self.version, batch)

    @rule(problem=st.sampled_from([None, "not connected"]))
    def judge(self, problem: str | None) -> None:
        """Let a probation pass."""
        self.bench.seconds += PROBATION_S
        self.bench.device.judge(problem)

    @rule()
    def blame(self) -> None:
        """Find that something is broken."""
        self.bench.device.blame("a model failed")

    @rule()
    def fail(self) -> None:
        """Find that what runs cannot."""
        self.bench.device.fail("address in use")

    @rule(rests=st.booleans(), boot=st.sampled_from(["one", "other"]))
    def restart(self, boot: str, *, rests: bool) -> None:
        """Restart the process or the machine, in order or not."""
        if rests:
            self.bench.device.rest()
        self.bench.start(boot=boot)

    @rule()
    def lose_files(self) -> None:
        """Let the disk damage what was signed."""
        for signed in (self.bench.folder / "state").glob("*.signed.json"):
            signed.write_bytes(b"")

    @invariant()
    def stands_as_the_table_says(self) -> None:
        """Every step is in the table, and none ended in an error of ours."""
        now = phase_of(self.bench)
        assert now in TRANSITIONS
        once = {self.before, *TRANSITIONS[self.before].values()}
        # A restart may find a crash in the same step in which something started.
        twice = {phase for each in once for phase in TRANSITIONS[each].values()}
        assert now in once | (twice if now[0] == "rolled_back" else set())
        assert "cannot be judged" not in (self.bench.report["reason"] or "")
        self.before = now

    def teardown(self) -> None:
        """Remove the folder."""
        self.folder.cleanup()


TestDevice = Device.TestCase
TestDevice.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
