"""A configuration that can run: what can be wrong with it is found before it does."""

from dataclasses import dataclass
from pathlib import Path

from agent.broker import llm
from agent.broker.config import BrokerFile, cases_filter, endpoints, load
from agent.broker.llm import LanguageModel
from agent.core.errors import refusing
from agent.mqtt.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class BrokerSetup:
    """What runs, and why something else was refused before."""

    file: BrokerFile
    models: tuple[LanguageModel, ...]
    cases: Endpoint
    group: Endpoint
    refused: str = ""

    @property
    def place(self) -> tuple[str, str, str]:
        """Where MQTT keeps the cases that are for us."""
        return self.cases.url, self.cases.client_id, cases_filter(self.file)


def prepare(path: Path | None) -> BrokerSetup:
    """Read broker.toml, keys, prices and certificates; raises ConfigError."""
    with refusing("broker.toml"):
        file = load(path)
        return BrokerSetup(file, llm.open_models(file), *endpoints(file))
