"""What a fleet's version on probation is to blame for, and what it is not.

What is wrong counts against it where it changed the part of the configuration that is
about it: to go back would then help. What was wrong before, or is wrong with others,
does not.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from agent.config.load import Config
from agent.protocol.homeassistant import discovery_topic, status_topic
from agent.protocol.messages import Topics
from agent.telemetry.alerts import STOLEN

STALLED = "input_stalled"
DROPPED = "connection_dropped"  # no alert, but remembered among them
DROPS = 5  # connections in a row that the broker accepted and soon ended
# Of [upstream]: who answers, and how it is reached.
UPSTREAM = {"transport", "url", "topic", "model", "timeout_s"}
UPSTREAM |= {"key_file", "username", "password_file", "ca_file"}
BACKLOG = {"max_backlog", "max_backlog_bytes"}  # of [mqtt], what is not the way there


@dataclass(frozen=True, slots=True)
class HealthSignals:
    """What shows how a configuration does; pipelines by their names.

    `broken`: what is never in order. `dropped`: connections in a row that the broker
    accepted and soon ended. `refused`: topics. `unread`: who could read nothing of all
    that came.
    """

    connected: bool
    broken: str = ""
    dropped: int = 0
    refused: frozenset[str] = frozenset()
    uncalibrated: frozenset[str] = frozenset()
    unread: frozenset[str] = frozenset()
    stalled: frozenset[str] = frozenset()
    alerts: frozenset[str] = frozenset()

    @property
    def before(self) -> frozenset[str]:
        """What a version that comes now is not to blame for."""
        return self.alerts | ({DROPPED} if self.dropped >= DROPS else frozenset())


@dataclass(frozen=True, slots=True)
class Probation:
    """A configuration on probation, and what would come back instead.

    `alerts` were active before it began.
    """

    now: Config
    before: Config
    alerts: frozenset[str] = frozenset()

    @property
    def moved(self) -> bool:
        """Whether it changed the way to the broker."""
        return _way(self.now) != _way(self.before)

    def broke(self, signs: HealthSignals) -> str | None:
        """Say what it has broken, beyond doubt; None: nothing."""
        if signs.broken:
            return signs.broken
        if signs.dropped >= DROPS and DROPPED not in self.alerts:
            return f"the broker ended {signs.dropped} connections in a row at once"
        topics = set(_topics(self.now)) - set(_topics(self.before))
        for topic in sorted(signs.refused & topics):
            return f"the broker refuses us the topic {topic!r}"
        for name in sorted(signs.uncalibrated):
            if _bundle(self.now, name) != _bundle(self.before, name):
                return f"calibration_mismatch: that of pipeline {name} does not fit"
        return None

    def spoilt(self, signs: HealthSignals) -> str | None:
        """Say what is wrong with it now, and might have passed meanwhile."""
        if not signs.connected:
            return "no connection to the broker"
        stalled = frozenset() if STALLED in self.alerts else signs.stalled
        for complaint, names in (
            (f"{STALLED}: no message for pipeline", stalled),
            ("nothing of what came could be read by pipeline", signs.unread),
        ):
            for name in sorted(names):
                if self.now.pipelines[name].input != _input(self.before, name):
                    return f"{complaint} {name}"
        for alert, part in (
            ("upstream_gone", _upstream),
            ("outbox_full", _outbox),
            (STOLEN, _way),
        ):
            new = alert in signs.alerts - self.alerts
            if new and part(self.now) != part(self.before):
                return alert
        return None


def _topics(config: Config) -> Iterator[str]:
    """Yield the topics that a configuration reads and writes by its own choice."""
    device, home = config.agent.device.id, config.agent.homeassistant
    topics = Topics(device)
    for name, pipeline in config.pipelines.items():
        yield from pipeline.input.topics
        yield pipeline.output.topic or topics.result(name)
        yield topics.dead_letter(name)
    if home.enable:
        yield discovery_topic(home.prefix, device)
        yield status_topic(home.prefix)


def _bundle(config: Config, pipeline: str) -> object:
    if pipeline not in config.pipelines:
        return None
    return config.bundle_dir(pipeline), config.calibration(pipeline)


def _input(config: Config, pipeline: str) -> object:
    spec = config.pipelines.get(pipeline)
    return spec and spec.input


def _way(config: Config) -> object:
    return config.client_id, config.agent.mqtt.model_dump(exclude=BACKLOG)


def _upstream(config: Config) -> object:
    section = config.agent.upstream
    return section and section.model_dump(include=UPSTREAM)


def _outbox(config: Config) -> object:
    return config.agent.outbox
