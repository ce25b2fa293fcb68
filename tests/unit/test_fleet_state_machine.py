"""The device's side: what is believed, applied and taken back, whenever power fails."""

import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.core.clock import Clock
from agent.core.errors import ConfigError
from agent.fleet.memory import FleetMemory
from agent.fleet.resolve import Effective, stand_in
from agent.fleet.rollout import REBOOTS, FleetDevice, RolloutOutcome
from harness.fleets import Keys

PROBATION_S = 300.0
START = datetime(2026, 12, 1, tzinfo=UTC).timestamp()


def toml(version: int, batch: int = 1, more: str = "") -> str:
    """Return a fleet file; `batch` tells its values from those of others."""
    return f"""
        version = {version}
        {more}
        agent.engine.max_batch = {batch}
        [[device]]
        id = "pi-1"
        [[device]]
        id = "pi-2"
    """


@dataclass
class Bench:
    """A device on a bench, whose process can be ended and begun at will."""

    folder: Path
    keys: Keys
    name: str = "pi-1"
    seconds: float = 0.0
    boot: str = "first"
    checked: list[int] = field(default_factory=list)
    refuses: Callable[[Effective], None] = lambda _: None

    def __post_init__(self) -> None:
        """Begin the first process."""
        self.device = self.new()

    def new(self) -> FleetDevice:
        """Return the device of a new process, not begun."""
        clock = Clock(
            lambda: START + self.seconds,
            lambda: self.seconds,
            self.boot,
        )
        return FleetDevice(
            self.folder / "state",
            stand_in(self.name),
            self.keys.known,
            self._check,
            PROBATION_S,
            clock,
        )

    def _check(self, effective: Effective) -> None:
        self.checked.append(effective.version)
        self.refuses(effective)

    def start(self, *, boot: str | None = None) -> int | None:
        """Begin a new process, the old one being gone; return the batch that runs."""
        self.boot = boot or self.boot
        self.device = self.new()
        self.device.begin()
        return self.batch

    def offer(self, version: int, batch: int = 1, more: str = "") -> RolloutOutcome:
        """Offer a signed file, and run what comes of it."""
        return self.take(self.keys.signed(toml(version, batch, more)))

    def take(self, data: bytes) -> RolloutOutcome:
        """Offer bytes, and run what comes of it."""
        outcome = self.device.offer(data)
        if outcome.switch:
            self.device.switched()
        return outcome

    def prove(self) -> RolloutOutcome:
        """Let the probation pass, all being well."""
        self.seconds += PROBATION_S
        return self.device.judge(None)

    @property
    def batch(self) -> int | None:
        """Which values run; None: the device's own files alone."""
        running = self.device.running
        return running and running.config.agent.engine.max_batch

    @property
    def report(self) -> dict[str, Any]:
        """What the device tells."""
        return self.device.report()

    @property
    def told(self) -> tuple[Any, ...]:
        """The heart of it."""
        report = self.report
        return (report["desired"], report["applied"], report["state"])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Return the fleet's keys."""
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for a disk: what is on it after loss of power no test can see."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.fixture
def bench(tmp_path: Path, keys: Keys) -> Bench:
    """Return a device that runs by its own files."""
    made = Bench(tmp_path, keys)
    made.start()
    return made


@pytest.fixture
def proven(bench: Bench) -> Bench:
    """Return a device that runs version 5 and has proven it."""
    bench.offer(5, batch=5)
    bench.prove()
    return bench


def test_nothing_yet(bench: Bench) -> None:
    """Before the first fleet file a device runs by its own files, and says so."""
    assert bench.batch is None
    assert bench.report == {
        "v": 1,
        "device": "pi-1",
        "desired": None,
        "applied": None,
        "last_good": None,
        "state": "none",
        "reason": None,
        "since": None,
        "probation": False,
        "config_sha256": None,
        "local": [],
    }


def test_applied_after_probation(bench: Bench) -> None:
    """A file is checked, runs on probation, and stands when that passed well."""
    outcome = bench.offer(5, batch=5)
    assert outcome.switch
    assert outcome.effective is not None
    assert outcome.effective.config.agent.engine.max_batch == 5
    assert bench.checked == [5]
    assert bench.told == (5, 5, "probation")
    assert bench.report["last_good"] is None
    bench.seconds += PROBATION_S - 1
    bench.device.judge("not connected")  # too early to count
    assert bench.told == (5, 5, "probation")
    bench.seconds += 1
    bench.device.judge(None)
    assert bench.told == (5, 5, "applied")
    assert bench.report["last_good"] == 5
    assert bench.report["since"] == "2026-12-01T00:05:00.000Z"
    assert bench.start() == 5


@pytest.mark.parametrize("version", [1, 4])
def test_older(proven: Bench, version: int) -> None:
    """A version does not go backwards, however well it is signed."""
    assert not proven.offer(version, batch=9).switch
    assert proven.told == (5, 5, "refused")
    assert f"version {version} is older than 5" in proven.report["reason"]
    assert proven.batch == 5


def test_same_version_other_content(proven: Bench) -> None:
    """A version is one file for ever."""
    assert not proven.offer(5, batch=9).switch
    assert "version 5 was another file before" in proven.report["reason"]
    assert proven.batch == 5


def test_same_again(proven: Bench) -> None:
    """The same file, as at each reconnect, is no news, and takes back a refusal."""
    proven.offer(4)
    assert proven.report["state"] == "refused"
    assert not proven.offer(5, batch=5).switch
    assert proven.told == (5, 5, "applied")
    proven.start()
    assert not proven.offer(5, batch=5).switch
    assert proven.checked == [5]


def test_signature(proven: Bench, tmp_path: Path) -> None:
    """What somebody else signed is refused with the reason, and never checked."""
    stranger = Keys(tmp_path, "stranger")
    assert not proven.take(stranger.signed(toml(9, 9))).switch
    assert stranger.id in proven.report["reason"]
    assert proven.told == (5, 5, "refused")
    assert proven.checked == [5]


def test_damaged(proven: Bench) -> None:
    """A damaged or truncated file is refused, and the device goes on."""
    data = proven.keys.signed(toml(6, 6))
    for broken in (b"", data[:100], data[:-1], data.replace(b'"v":1', b'"v":2')):
        assert not proven.take(broken).switch
        assert proven.told == (5, 5, "refused")
    damaged = data[:60] + bytes([data[60] ^ 1]) + data[61:]
    assert not proven.take(damaged).switch
    assert proven.take(data).switch


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("x = ", "not valid TOML"),
        ("version = 6\nx = 1", "x: unknown key"),
        ("version = 6\na = " + "[" * 5000, "not valid TOML"),
    ],
)
def test_signed_nonsense(proven: Bench, content: str, said: str) -> None:
    """A signed file that cannot be read is refused; nothing of ours dies of it."""
    assert not proven.take(proven.keys.signed(content)).switch
    assert proven.told == (5, 5, "refused")
    assert proven.report["reason"]
    assert said in proven.report["reason"]


def test_rubbish_wears_nothing_out(proven: Bench) -> None:
    """What is not believed is not written down."""
    state = proven.folder / "state" / "state"
    before = (state.stat().st_ino, state.read_bytes())
    proven.offer(4)
    proven.take(b"rubbish")
    assert (state.stat().st_ino, state.read_bytes()) == before
    proven.start()
    assert proven.told == (5, 5, "applied")


def test_breaks_one_device_only(tmp_path: Path, keys: Keys) -> None:
    """A file that breaks one device is refused by that one, with the reason."""
    more = '[[layer]]\nname = "l"\ndevices = ["pi-2"]\nenable = ["nothing"]\n[agent]'
    benches = [Bench(tmp_path / name, keys, name) for name in ("pi-1", "pi-2")]
    for each in benches:
        each.start()
        each.offer(5, batch=5)
        each.prove()
        bad = toml(6, 6).replace("[[device]]", more + "\n[[device]]", 1)
        each.take(keys.signed(bad.replace("[agent]", "")))
    well, broken = benches
    assert well.told == (6, 6, "probation")
    assert broken.told == (6, 5, "refused")
    assert "there is no pipeline 'nothing'" in broken.report["reason"]
    assert broken.start() == 5


def test_self_check_fails(proven: Bench) -> None:
    """What the self-check refuses is not applied; a newer version is judged anew."""

    def refuse(effective: Effective) -> None:
        raise ConfigError(f"bundle of {effective.version} is missing")

    proven.refuses = refuse
    assert not proven.offer(6, batch=6).switch
    assert proven.told == (6, 5, "refused")
    assert proven.report["reason"] == "bundle of 6 is missing"
    proven.offer(6, batch=6)
    assert proven.checked == [5, 6]  # once a process, however often it comes
    proven.refuses = lambda _: None
    assert proven.start() == 5
    assert proven.told == (6, 5, "refused")
    assert proven.offer(6, batch=6).switch  # the bundle came meanwhile
    assert proven.told == (6, 6, "probation")


def test_asked_again(proven: Bench) -> None:
    """On demand a refused file is judged again within the same process."""

    def refuse(_: Effective) -> None:
        raise ConfigError("not now")

    proven.refuses = refuse
    data = proven.keys.signed(toml(6, 6))
    proven.take(data)
    proven.refuses = lambda _: None
    assert not proven.device.offer(data).switch
    assert proven.device.offer(data, again=True).switch


def test_a_bug_in_the_self_check(proven: Bench) -> None:
    """Even an error nobody thought of refuses the file instead of ending us."""

    def broken(_: Effective) -> None:
        raise ZeroDivisionError

    proven.refuses = broken
    assert not proven.offer(6, batch=6).switch
    assert "ZeroDivisionError" in proven.report["reason"]
    assert proven.batch == 5


def test_not_well(proven: Bench) -> None:
    """Health that is bad at the end of probation brings the last good one back."""
    proven.offer(6, batch=6)
    proven.seconds += PROBATION_S
    outcome = proven.device.judge("not connected")
    assert outcome.switch
    assert outcome.effective is not None
    assert outcome.effective.config.agent.engine.max_batch == 5
    assert proven.told == (6, 5, "rolled_back")
    assert proven.report["reason"] == "version 6: not well after 300 s: not connected"
    assert not proven.device.on_probation
    assert proven.start() == 5


def test_blamed(proven: Bench) -> None:
    """What a version has broken brings the last good one back before its time."""
    assert not proven.device.blame("broken").switch  # that one is proven
    proven.offer(6, batch=6)
    assert proven.device.last_good() is not None
    proven.seconds += 2
    assert proven.device.blame("broken").switch
    assert proven.told == (6, 5, "rolled_back")
    assert proven.report["reason"] == "version 6: not well after 2 s: broken"


def test_what_was_rolled_back_is_not_tried_again(proven: Bench) -> None:
    """The same version, coming again at each start, stays away; a newer one does not.

    A new version is a new try, even with the same values.
    """
    proven.offer(6, batch=6)
    proven.device.fail("crash")
    assert not proven.offer(6, batch=6).switch
    proven.start()
    assert not proven.offer(6, batch=6).switch
    assert proven.told == (6, 5, "rolled_back")
    assert proven.offer(7, batch=6).switch


def test_nothing_to_go_back_to(bench: Bench) -> None:
    """The first fleet file falls back to the device's own files."""
    bench.offer(1, batch=7)
    outcome = bench.device.fail("no good")
    assert outcome.switch
    assert outcome.effective is None
    assert bench.told == (1, None, "rolled_back")
    assert bench.start() is None


def test_nobody_can_tell(proven: Bench) -> None:
    """While the network is down probation goes on; then it ends as it must."""
    proven.offer(6, batch=6)
    proven.seconds += 10 * PROBATION_S
    proven.device.judge("not connected", known=False)
    assert proven.told == (6, 6, "probation")
    proven.device.judge(None)
    assert proven.told == (6, 6, "applied")


def test_crash_on_probation(proven: Bench) -> None:
    """A process that died on probation is taken as the version's doing."""
    proven.offer(6, batch=6)
    assert proven.start() == 5
    assert proven.told == (6, 5, "rolled_back")
    assert "ended unexpectedly" in proven.report["reason"]


def test_an_orderly_end_on_probation(proven: Bench) -> None:
    """A stop is no crash: probation begins again with the next process."""
    proven.offer(6, batch=6)
    proven.seconds += PROBATION_S / 2
    proven.device.rest()
    assert proven.start() == 6
    assert proven.told == (6, 6, "probation")
    proven.seconds += PROBATION_S / 2
    proven.device.judge(None)
    assert proven.told == (6, 6, "probation")  # from the start
    proven.seconds += PROBATION_S / 2
    proven.device.judge(None)
    assert proven.told == (6, 6, "applied")


def test_applied_by_a_new_process(proven: Bench) -> None:
    """A daemon may also end after an offer: the next process begins with it."""
    outcome = proven.device.offer(proven.keys.signed(toml(6, 6)))
    assert outcome.switch
    assert proven.told == (6, 5, "probation")  # not yet
    assert proven.start() == 6
    assert proven.told == (6, 6, "probation")
    assert proven.start() == 5  # and this was a crash


def test_what_cannot_even_begin(proven: Bench) -> None:
    """A version that passed its check but cannot run is taken back at once."""
    proven.device.offer(proven.keys.signed(toml(6, 6)))
    outcome = proven.device.fail("address in use")
    assert not outcome.switch  # version 5 never stopped
    assert proven.told == (6, 5, "rolled_back")


def test_loss_of_power(proven: Bench) -> None:
    """Loss of power is forgiven, for a while: the machine may be what breaks."""
    proven.offer(6, batch=6)
    for number in range(REBOOTS):
        assert proven.start(boot=f"boot {number}") == 6
        assert proven.told == (6, 6, "probation")
    assert proven.start(boot="one too many") == 5
    assert "the machine restarted 3 times" in proven.report["reason"]


def test_no_change_no_probation(proven: Bench) -> None:
    """A version that changes nothing for this device is taken without a switch."""
    assert not proven.offer(6, batch=5).switch
    assert proven.told == (6, 6, "applied")
    assert proven.report["last_good"] == 6
    assert proven.checked == [5]
    assert proven.start() == 5
    assert proven.told == (6, 6, "applied")


def test_a_newer_one_on_probation(proven: Bench) -> None:
    """A version may be mended while it is on probation: the last good one stays."""
    proven.offer(6, batch=6)
    proven.seconds += PROBATION_S / 2
    assert proven.offer(7, batch=7).switch
    assert proven.told == (7, 7, "probation")
    assert proven.report["last_good"] == 5
    proven.seconds += PROBATION_S / 2
    proven.device.judge("bad")  # its own probation has only begun
    assert proven.told == (7, 7, "probation")
    assert proven.start() == 5


def test_the_same_values_on_probation(proven: Bench) -> None:
    """A newer version with the values on trial goes on with the trial."""
    proven.offer(6, batch=6)
    assert not proven.offer(7, batch=6).switch
    assert proven.told == (7, 7, "probation")
    assert proven.report["last_good"] == 5
    proven.prove()
    assert proven.told == (7, 7, "applied")
    assert proven.report["last_good"] == 7


def test_refused_while_on_probation(proven: Bench) -> None:
    """A newer version that is refused leaves the trial to its own end."""
    proven.offer(6, batch=6)
    proven.offer(7, more='enable = ["nothing"]')
    assert proven.told == (7, 6, "refused")
    proven.prove()
    assert proven.told == (7, 6, "refused")
    assert proven.report["last_good"] == 6
    assert not proven.report["probation"]


STAGED = 'rollout = {{ name = "x", percent = {} }}'


def test_held(proven: Bench) -> None:
    """A device whose turn has not come keeps what it has, and takes it later."""
    assert not proven.offer(6, 6, STAGED.format(0)).switch
    assert proven.told == (6, 5, "held")
    assert proven.report["reason"] == "not yet its turn: 0 % of 'x'"
    assert proven.start() == 5
    assert proven.told == (6, 5, "held")
    assert not proven.offer(5, batch=5).switch  # no way back to an older one
    assert proven.offer(7, 6, STAGED.format(100)).switch
    assert proven.told == (7, 7, "probation")


def test_ten_percent_then_all(tmp_path: Path, keys: Keys) -> None:
    """A staged rollout over 40 devices; those that took it need no second switch."""
    listed = "".join(f'{{"id": "d{number}"}}\n' for number in range(40))
    benches = [Bench(tmp_path / str(n), keys, f"d{n}") for n in range(40)]

    def offered(version: int, percent: int) -> set[str]:
        data = keys.signed(
            f"version = {version}\ndevices_file = 'd'\nagent.engine.max_batch = 9\n"
            + STAGED.format(percent),
            listed,
        )
        return {each.name for each in benches if each.take(data).switch}

    for each in benches:
        each.start()
    first = offered(1, 10)
    assert 0 < len(first) < 12
    assert {b.name for b in benches if b.report["state"] == "held"} == {
        b.name for b in benches
    } - first
    for each in benches:
        each.prove()
    rest = offered(2, 100)
    assert rest == {b.name for b in benches} - first
    assert all(each.report["applied"] == 2 for each in benches)


def test_damaged_memory(proven: Bench) -> None:
    """A damaged state is set aside; the retained file then applies anew."""
    state = proven.folder / "state" / "state"
    whole = state.read_bytes()
    other = whole.replace(b'"version":5', b'"version":4')  # still JSON, still valid
    for damage in (b"", b"{}", whole[:-1] + b" ", other):
        state.write_bytes(damage)
        assert proven.start() is None
        assert proven.report["state"] == "refused"
        assert "damaged" in proven.report["reason"]
        assert proven.offer(5, batch=5).switch
        proven.prove()
    assert proven.told == (5, 5, "applied")


def test_damaged_file(proven: Bench) -> None:
    """A stored file that the disk damaged falls back, and comes again by the topic."""
    [stored] = (proven.folder / "state").glob("*.signed.json")
    stored.write_bytes(stored.read_bytes()[:-7])
    assert proven.start() is None
    assert proven.report["state"] == "refused"
    assert "version 5 cannot be used" in proven.report["reason"]
    assert proven.offer(5, batch=5).switch
    assert proven.batch == 5


def test_another_file_in_its_place(proven: Bench) -> None:
    """A stored file counts only if it is the one that was believed."""
    [stored] = (proven.folder / "state").glob("*.signed.json")
    stored.write_bytes(proven.keys.signed(toml(4, 4)))
    assert proven.start() is None
    assert "is damaged" in proven.report["reason"]


def test_pins(proven: Bench) -> None:
    """A bundle that is not the pinned one refuses the file before it is opened."""
    pin = f'bundles.home = "sha256:{"0" * 64}"'
    assert not proven.offer(6, 6, pin).switch
    assert proven.told == (6, 5, "refused")
    assert "pinned is sha256:000" in proven.report["reason"]
    assert proven.checked == [5]


def test_a_lost_disk_on_probation(proven: Bench) -> None:
    """Where the last good file is damaged too, the device's own files remain."""
    proven.offer(6, batch=6)
    for stored in (proven.folder / "state").glob("*.signed.json"):
        stored.write_bytes(b"")
    outcome = proven.device.fail("bad")
    assert (outcome.switch, outcome.effective) == (True, None)
    assert "version 5 cannot be used" in proven.report["reason"]


def test_only_what_is_named_is_kept(proven: Bench) -> None:
    """The folder holds the state and the files it names, no others."""
    for version in range(6, 10):
        proven.offer(version, batch=version)
        proven.prove()
    proven.offer(10, batch=10)
    assert len(list((proven.folder / "state").iterdir())) == 3  # state, two files
    proven.prove()
    proven.offer(11, batch=10)
    assert len(list((proven.folder / "state").iterdir())) == 2


class Killed(BaseException):
    """Power fails in the middle of a call."""


class Disk:
    """The calls that touch a folder; the n-th of them can be made to fail."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Stand between the code and the disk."""
        self._folder = str(folder)
        self.calls = self._number = 0
        self._error: BaseException | None = None
        self._after = False
        for owner, names in (
            (os, ("open", "fsync", "replace", "unlink")),
            (Path, ("open", "replace", "unlink", "mkdir")),
        ):
            for name in names:
                monkeypatch.setattr(owner, name, self._between(getattr(owner, name)))

    def fail(self, number: int, error: BaseException, *, after: bool = False) -> None:
        """Let a call fail, before or after it did its work."""
        self.calls, self._number = 0, number
        self._error, self._after = error, after

    def mend(self) -> None:
        """Let no call fail."""
        self._error = None

    def _between(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            ours = isinstance(args[0], int) or str(args[0]).startswith(self._folder)
            self.calls += ours
            due = ours and self._error is not None and self.calls == self._number
            if due and not self._after:
                raise self._error
            result = real(*args, **kwargs)
            if due:
                close = getattr(result, "close", lambda: None)
                os.close(result) if isinstance(result, int) else close()
                raise self._error
            return result

        return call


@pytest.fixture
def disk(proven: Bench, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Return the disk of a device that runs version 5."""
    return Disk(proven.folder, monkeypatch)


STEPS = 34  # more than an offer, a switch, a proof and a fall-back take together


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(1, STEPS))
def test_killed_at_every_step(
    proven: Bench,
    disk: Disk,
    number: int,
    *,
    after: bool,
) -> None:
    """Killed at any call to the disk, the next start runs one version, whole.

    And the retained file then leads where it leads without the crash.
    """
    data = proven.keys.signed(toml(6, 6))
    disk.fail(number, Killed(), after=after)
    with suppress(Killed):
        proven.take(data)
        proven.prove()
    disk.mend()
    ran = proven.start(boot="second")
    assert ran in {5, 6}
    assert proven.report["applied"] == ran
    assert proven.report["state"] in {"applied", "probation"}
    proven.take(data)
    proven.prove()
    assert proven.told == (6, 6, "applied")
    assert proven.start() == 6
    assert proven.told == (6, 6, "applied")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(1, STEPS))
def test_killed_while_falling_back(
    proven: Bench,
    disk: Disk,
    number: int,
    *,
    after: bool,
) -> None:
    """Killed at any moment of a fall-back, the device ends with the last good one."""
    proven.offer(6, batch=6)
    disk.fail(number, Killed(), after=after)
    with suppress(Killed):
        proven.device.fail("bad")
    disk.mend()
    assert proven.start() == 5
    assert proven.told == (6, 5, "rolled_back")


def test_there_are_no_more_steps(proven: Bench, disk: Disk) -> None:
    """The tests above fail every call that is made, and some that are not."""
    proven.offer(6, batch=6)
    proven.prove()
    assert 10 < disk.calls < STEPS
    proven.offer(7, batch=7)
    disk.calls = 0
    proven.device.fail("bad")
    assert 5 < disk.calls < STEPS


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("number", range(1, STEPS))
def test_a_disk_that_fails(
    proven: Bench, disk: Disk, number: int, code: int, *, after: bool
) -> None:
    """An error of the disk refuses the file or is survived; what is told is true."""
    data = proven.keys.signed(toml(6, 6))
    disk.fail(number, OSError(code, os.strerror(code)), after=after)
    outcome = proven.take(data)
    disk.mend()
    remembered = FleetMemory(proven.folder / "state", lambda: START).state.applied
    assert remembered is not None
    assert remembered.version == proven.batch
    assert proven.batch == (6 if outcome.switch else 5)
    assert proven.report["applied"] == proven.batch
    if not outcome.switch:
        assert os.strerror(code) in proven.report["reason"]
        assert proven.take(data).switch  # there is room again
    proven.device.rest()
    assert proven.start() == 6


def test_state_of_another_version_of_the_software(proven: Bench) -> None:
    """A state that this version of the software does not know is as none."""
    state = proven.folder / "state" / "state"
    document = json.loads(state.read_bytes().split(b"\n", 1)[1]) | {"v": 2}
    state.write_text(json.dumps(document))
    assert proven.start() is None
