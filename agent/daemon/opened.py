"""A configuration whose every file could be opened, beside a running daemon."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.config.load import Config
from agent.core.errors import ConfigError
from agent.daemon.endpoint import endpoint
from agent.escalation.privacy_gate import Finder
from agent.escalation.transport import Transport
from agent.escalation.transports import open_transport
from agent.fleet.values import Values
from agent.inference.bundle import open_bundle
from agent.inference.pipeline import Pipeline, open_pipelines
from agent.mqtt.endpoint import Endpoint

PRIVACY = "privacy"  # the bundle that finds personal data


@dataclass(frozen=True, slots=True)
class Opened:
    """A configuration whose every file could be opened."""

    config: Config
    endpoint: Endpoint
    pipelines: Sequence[Pipeline]
    transport: Transport | None
    finder: Finder | None
    values: Values = field(default_factory=dict, repr=False)  # a fleet's, by key


def prepare(config: Config) -> Opened:
    """Open all that can be opened beside a running daemon; raises ConfigError.

    Blocks for seconds on a small device: every bundle is loaded and probed.
    """
    pipelines = open_pipelines(config)
    return Opened(
        config=config,
        endpoint=endpoint(config),
        pipelines=pipelines,
        transport=transport_of(config),
        finder=finder_of(config, pipelines),
    )


def transport_of(config: Config) -> Transport | None:
    """Return the way to upstream, if there is one; raises ConfigError."""
    section = config.agent.upstream
    if section is None:
        return None
    return open_transport(section, config.agent.device.id, endpoint(config))


def finder_of(config: Config, pipelines: Sequence[Pipeline]) -> Finder | None:
    """Return what finds personal data, if a pipeline hides it; raises ConfigError."""
    if not any(pipeline.plan and pipeline.plan.redacts for pipeline in pipelines):
        return None
    folder = config.agent.models.dir / PRIVACY
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such bundle, and upstream.privacy is 'redact'")
    # Also where a pipeline has it open: that one belongs to another thread.
    return Finder(open_bundle(folder, config.agent.engine.threads))
