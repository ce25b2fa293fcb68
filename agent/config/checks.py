"""What one part of the configuration must be for the others."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path

from agent.config.agent_file import AgentFile, Mqtt
from agent.config.pipeline_file import PipelineFile
from agent.core.errors import ConfigError
from agent.mqtt.topic_filters import matches, overlap


def check_tls(mqtt: Mqtt, path: Path) -> None:
    """Refuse TLS files and credentials that cannot be meant; raises ConfigError."""
    given = [k for k in ("ca_file", "cert_file", "key_file") if getattr(mqtt, k)]
    if given and not mqtt.url.startswith("mqtts:"):
        raise ConfigError(f"{path}: mqtt.{given[0]}: needs a url with mqtts://")
    if bool(mqtt.cert_file) != bool(mqtt.key_file):
        raise ConfigError(f"{path}: mqtt.cert_file: goes together with key_file")
    if mqtt.password_file and not (mqtt.username or mqtt.username_file):
        raise ConfigError(f"{path}: mqtt.password_file: needs username(_file), too")
    if mqtt.username and mqtt.username_file:
        raise ConfigError(f"{path}: mqtt.username: give it or username_file, not both")


def check_together(agent: AgentFile, pipelines: Mapping[str, PipelineFile]) -> None:
    """Check what each is for the others; raises ConfigError."""
    _check_loops(agent, pipelines)
    _check_overlaps(pipelines)
    _check_upstream(agent, pipelines)


def _check_loops(agent: AgentFile, pipelines: Mapping[str, PipelineFile]) -> None:
    """Refuse a result topic that some pipeline would read again, for ever."""
    own = f"slm/{agent.device.id}"
    for name, pipeline in pipelines.items():
        for topic in _published(own, name, pipeline):
            for reader, other in pipelines.items():
                for wanted in other.input.topics:
                    if matches(wanted, topic):
                        raise ConfigError(
                            f"pipelines/{name}.toml: output.topic: {topic!r} is read "
                            f"again by pipeline {reader!r} ({wanted!r})"
                        )


def _check_overlaps(pipelines: Mapping[str, PipelineFile]) -> None:
    """Refuse two filters of one pipeline that a message may fall under at once.

    Brokers may then send it twice, and it would be answered twice.
    """
    for name, pipeline in pipelines.items():
        for one, other in combinations(pipeline.input.topics, 2):
            if overlap(one, other):
                raise ConfigError(
                    f"pipelines/{name}.toml: input.topics: {one!r} and {other!r} "
                    "overlap; a message under both would be answered twice"
                )


def _check_upstream(agent: AgentFile, pipelines: Mapping[str, PipelineFile]) -> None:
    """Refuse a policy that nobody could follow: no message would ever be resolved."""
    _check_prices(agent, pipelines)
    for name, pipeline in pipelines.items():
        asked = pipeline.upstream
        if "always_upstream" not in {asked.policy, *asked.labels.values()}:
            continue
        where = f"pipelines/{name}.toml: upstream.policy: always_upstream"
        if agent.upstream is None:
            raise ConfigError(f"{where} needs [upstream] in agent.toml")
        if asked.privacy == "never":
            raise ConfigError(f"{where} does not go with privacy 'never'")


def _check_prices(agent: AgentFile, pipelines: Mapping[str, PipelineFile]) -> None:
    """Refuse a budget in money that could not bind: nobody says what a call costs."""
    upstream = agent.upstream
    if upstream is None or upstream.price_in or upstream.price_out:
        return
    limited = {"agent.toml": upstream.budget.money_per_day}
    for name, pipeline in pipelines.items():
        limited[f"pipelines/{name}.toml"] = pipeline.upstream.budget.money_per_day
    for file, money in limited.items():
        if money is not None:
            raise ConfigError(
                f"{file}: upstream.budget.money_per_day: needs upstream.price_in and "
                "upstream.price_out in agent.toml: what a call may cost is booked "
                "before it is made"
            )


def _published(own: str, name: str, pipeline: PipelineFile) -> Iterator[str]:
    yield pipeline.output.topic or f"{own}/result/{name}"
    yield f"{own}/deadletter/{name}"
    yield f"{own}/health"
    yield f"{own}/fleet"
