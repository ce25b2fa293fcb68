"""Steering: which configuration runs, and what a probation survives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import agent.daemon.config_source
from agent.config.load import Config
from agent.core.clock import Clock
from agent.core.errors import ConfigError
from agent.daemon.config_source import ConfigSource
from agent.daemon.endpoint import endpoint
from agent.daemon.opened import Opened
from agent.fleet.probation import DROPS, HealthSignals
from harness.fleets import Keys

PROBATION_S = 300.0
WELL = HealthSignals(connected=True)


@dataclass
class Bench:
    """A device that belongs to a fleet; no bundle is opened, and the clock is ours."""

    folder: Path
    keys: Keys
    opened: list[Config] = field(default_factory=list)
    fails: Callable[[Config], bool] = lambda _config: False
    seconds: float = 0.0
    alerts: frozenset[str] = frozenset()  # active when a file comes

    def __post_init__(self) -> None:
        """Write the device's own files."""
        self.write()

    def write(self, more: str = "") -> None:
        """Write agent.toml."""
        (self.folder / "agent.toml").write_text(
            f'[device]\nid = "pi-1"\n[state]\ndir = "state"\n[fleet]\n'
            f'public_key_files = ["{self.keys.public}"]\nprobation_s = {PROBATION_S}\n'
            f"{more}",
            "utf-8",
        )

    def prepare(self, config: Config) -> Opened:
        """Open nothing."""
        self.opened.append(config)
        if self.fails(config):
            raise ConfigError("a bundle is missing")
        return Opened(config, endpoint(config), [], None, None)

    def start(self) -> ConfigSource:
        """Begin a process, and run what it shall."""
        steering = ConfigSource(self.folder / "agent.toml", lambda _config: None)
        steering.runs(steering.begin())
        return steering

    def offer(self, steering: ConfigSource, version: int, more: str = "") -> None:
        """Offer a fleet file, and run it."""
        toml = f'version = {version}\nunlisted = "accept"\n{more}'
        outcome = steering.offer(
            self.keys.signed(toml), HealthSignals(connected=True, alerts=self.alerts)
        )
        assert outcome
        assert outcome.switch, outcome
        parts = steering.parts(outcome.effective)
        steering.leaves()
        steering.runs(parts)

    def reload(self, steering: ConfigSource) -> ConfigSource:
        """Reload, and run what comes of it."""
        fresh, parts = steering.anew()
        fresh.runs(parts)
        return fresh


@pytest.fixture
def bench(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    """Return a device's files."""
    made = Bench(tmp_path, Keys(tmp_path_factory.mktemp("keys")))
    monkeypatch.setattr(agent.daemon.config_source, "prepare", made.prepare)
    monkeypatch.setattr(
        agent.daemon.config_source,
        "Clock",
        lambda: Clock(running=lambda: made.seconds, boot="this boot"),
    )
    return made


def state(steering: ConfigSource) -> Sequence[object]:
    """Return what is said of the version, and whether it is still on probation."""
    report = steering.report()
    assert report
    return report["applied"], report["state"], report["probation"]


def test_parts_know_who_set_what(bench: Bench) -> None:
    """Whoever explains a decision can name the layer that a value comes from."""
    steering = bench.start()
    toml = 'version = 1\nunlisted = "accept"\npipelines.home.decide.max_error = 0.1\n'
    signs = HealthSignals(connected=True, alerts=bench.alerts)
    outcome = steering.offer(bench.keys.signed(toml), signs)
    assert outcome
    values = steering.parts(outcome.effective).values
    leaf = values["pipelines", "home", "decide", "max_error"]
    assert (leaf.value, leaf.origin) == (0.1, "base")


def test_without_a_fleet_the_own_files_run(bench: Bench, tmp_path: Path) -> None:
    """There is nothing to report, to judge or to rest, and a reload is a reload."""
    path = tmp_path / "agent.toml"
    path.write_text('[device]\nid = "pi-1"\n', "utf-8")
    alone = bench.reload(bench.start())
    assert not alone.active
    assert not alone.topic
    assert alone.report() is None
    assert alone.offer(b"", WELL) is None
    assert alone.judge(WELL) is None
    alone.leaves()
    alone.stays()
    with pytest.raises(ConfigError, match="outbox"):
        alone.failed("outbox")


def test_a_reload_on_probation_is_no_crash(bench: Bench) -> None:
    """The version stays on probation, as it does when the machine is restarted."""
    steering = bench.start()
    bench.offer(steering, 1)
    for _ in range(10):  # however often
        steering = bench.reload(steering)
        assert state(steering) == (1, "probation", True)
    bench.seconds += PROBATION_S
    steering.judge(WELL)
    assert state(steering) == (1, "applied", False)


@pytest.mark.parametrize("how", ["unreadable", "not opened"])
def test_a_refused_reload_leaves_a_probation_as_it_was(bench: Bench, how: str) -> None:
    """It ends when it would have, either way, and a crash is still a crash."""
    steering = bench.start()
    bench.offer(steering, 1)
    bench.seconds += PROBATION_S / 2
    if how == "unreadable":
        bench.write("[engine]\nthreads = 0\n")
    else:
        bench.fails = lambda _config: True
    with pytest.raises(ConfigError):
        steering.anew()
    assert state(steering) == (1, "probation", True)
    bench.write()
    bench.fails = lambda _config: False
    assert state(bench.start()) == (None, "rolled_back", False)
    bench.seconds += PROBATION_S / 2
    steering.judge(WELL)
    assert state(steering) == (1, "applied", False)


def test_a_stop_after_a_reload_is_in_order(bench: Bench) -> None:
    """What was opened and never ran has not crashed."""
    steering = bench.start()
    bench.offer(steering, 1)
    fresh, _ = steering.anew()
    fresh.leaves()
    steering.leaves()
    assert state(bench.start()) == (1, "probation", True)


LOST = '[agent.mqtt]\nurl = "mqtt://127.0.0.1:9"\n'


@pytest.mark.parametrize("reloads", [0, 1, 2])
@pytest.mark.parametrize(("more", "blamed"), [(LOST, True), ("", False)])
def test_who_changed_the_way_is_to_blame(
    bench: Bench, more: str, *, reloads: int, blamed: bool
) -> None:
    """A version that cut the device off is taken back, also after a reload."""
    steering = bench.start()
    bench.offer(steering, 1, more)
    for _ in range(reloads):
        steering = bench.reload(steering)
    bench.seconds += PROBATION_S
    outcome = steering.judge(HealthSignals(connected=False))
    assert outcome
    assert outcome.switch is blamed


REFUSED = HealthSignals(connected=False, refused=frozenset({"x/y"}))
ELSEWHERE = '[pipelines.home.output]\ntopic = "x/y"\n'


@pytest.mark.parametrize("begun", ["once", "reloaded", "restarted"])
@pytest.mark.parametrize(("more", "blamed"), [(ELSEWHERE, True), (LOST, False)])
def test_what_a_version_breaks_takes_it_back_at_once(
    bench: Bench, begun: str, more: str, *, blamed: bool
) -> None:
    """Long before its probation is over, and without a connection."""
    steering = bench.start()
    bench.offer(steering, 1, more)
    if begun == "reloaded":
        steering = bench.reload(steering)
    elif begun == "restarted":
        steering.leaves()
        steering = bench.start()
    bench.seconds += 2
    outcome = steering.judge(REFUSED)
    assert outcome
    assert outcome.switch is blamed
    if blamed:
        assert outcome.reason
        assert outcome.reason.startswith("version 1: not well after 2 s: the broker")


def test_a_version_is_compared_with_the_last_good_one(bench: Bench) -> None:
    """What proved itself with the last good version is not what a new one breaks."""
    steering = bench.start()
    bench.offer(steering, 1, ELSEWHERE)
    bench.seconds += PROBATION_S
    steering.judge(WELL)
    bench.offer(steering, 2, f"{ELSEWHERE}[agent.engine]\nmax_batch = 2")
    steering.judge(REFUSED)
    assert state(steering) == (2, "probation", True)


@pytest.mark.parametrize("before", [0, DROPS])
def test_connections_that_ended_before_a_version_came(
    bench: Bench, before: int
) -> None:
    """A version is not to blame for a broker that ended them before it came."""
    steering = bench.start()
    toml = 'version = 1\nunlisted = "accept"\nagent.engine.max_batch = 2\n'
    signs = HealthSignals(connected=True, dropped=before)
    outcome = steering.offer(bench.keys.signed(toml), signs)
    assert outcome
    parts = steering.parts(outcome.effective)
    steering.leaves()
    steering.runs(parts)
    steering.judge(HealthSignals(connected=False, dropped=DROPS))
    assert state(steering)[1] == ("probation" if before else "rolled_back")


def test_a_limit_that_keeps_the_next_version_away(bench: Bench) -> None:
    """A version whose packet limit has no room for a file like itself is refused."""
    steering = bench.start()
    toml = (
        'version = 1\nunlisted = "accept"\nagent.mqtt.max_packet_bytes = 1024\n'
        f"# {'x' * 100}\n"
    )
    outcome = steering.offer(bench.keys.signed(toml), WELL)
    assert outcome
    assert outcome.status == "refused"
    assert "max_packet_bytes" in str(outcome.reason)


GONE = frozenset({"upstream_gone"})
UPSTREAM = """
    [agent.upstream]
    transport = "http"
    model = "m"
    url = "http://localhost/{}"
"""


@pytest.mark.parametrize("restarts", [0, 1])
@pytest.mark.parametrize("known", [True, False])
def test_what_was_wrong_before_is_remembered(
    bench: Bench, restarts: int, *, known: bool
) -> None:
    """An alert from before does not count, one that a version on trial raised does.

    Also after a restart, and when a newer version takes its place meanwhile.
    """
    steering = bench.start()
    bench.alerts = GONE if known else frozenset()
    bench.offer(steering, 1, UPSTREAM.format("one"))
    bench.alerts = GONE
    bench.offer(steering, 2, UPSTREAM.format("two"))
    for _ in range(restarts):
        steering.leaves()
        steering = bench.start()
    bench.seconds += PROBATION_S
    steering.judge(HealthSignals(connected=True, alerts=GONE))
    assert state(steering)[1] == ("applied" if known else "rolled_back")


def test_what_cannot_be_run_is_taken_back(bench: Bench) -> None:
    """A version whose outbox cannot be opened makes room for the own files."""
    steering = bench.start()
    bench.offer(steering, 1)
    parts = steering.failed("outbox")
    steering.runs(parts)
    assert parts.config.hash == bench.opened[0].hash
    assert state(steering) == (None, "rolled_back", False)


def test_where_nothing_can_be_opened_nothing_runs(bench: Bench) -> None:
    """Neither the version nor the own files: that is the operator's to mend."""
    steering = bench.start()
    bench.offer(steering, 1)
    bench.fails = lambda _config: True
    with pytest.raises(ConfigError, match="bundle"):
        steering.parts(None)
    with pytest.raises(ConfigError, match="bundle"):
        bench.start()


@pytest.mark.parametrize(
    "content",
    [
        b"[device]\nid = " + b"9" * 5000,
        b'[state]\ndir = "a\\u0000b"',
        b"x = " + b"[" * 5000 + b"]" * 5000,
        b"\xff\xfe",
        b"[mqtt]\nkeepalive_s = nan",
    ],
)
def test_a_reload_refuses_what_nobody_can_mean(bench: Bench, content: bytes) -> None:
    """Whatever stands in the file now, the daemon goes on, and says why in a line."""
    steering = bench.start()
    (bench.folder / "agent.toml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        steering.anew()
    assert "\n" not in str(caught.value)
    bench.write()
    bench.reload(steering)


def test_a_reload_survives_an_error_that_nobody_expected(bench: Bench) -> None:
    """A bug of ours in reading a file is no end of a daemon that runs."""
    steering = bench.start()

    def broken(_config: Config) -> bool:
        raise ZeroDivisionError("ours")

    bench.fails = broken
    bench.write("[engine]\nthreads = 2\n")
    with pytest.raises(ConfigError, match="ZeroDivisionError: ours; please report it"):
        steering.anew()
