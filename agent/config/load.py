"""From TOML to a whole configuration: unknown keys refused, one line an error."""

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from agent.config.agent_file import AgentFile, Mqtt
from agent.config.checks import check_tls, check_together
from agent.config.pipeline_file import PipelineFile
from agent.core.errors import ConfigError
from agent.core.explain import explain
from agent.core.files import exists, first_line, read_bytes
from agent.core.words import nearest
from agent.mqtt.endpoint import Login

DEFAULT_PATH = Path("/etc/slm-agent/agent.toml")

File = TypeVar("File", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the daemon was told, validated and resolved."""

    agent: AgentFile
    pipelines: Mapping[str, PipelineFile]
    hash: str  # sha256 of the effective configuration, for `birth`

    @property
    def client_id(self) -> str:
        """Stable, so that the broker keeps our session."""
        return self.agent.mqtt.client_id or f"slm-agent-{self.agent.device.id}"

    def bundle_dir(self, pipeline: str) -> Path:
        """Return the folder of the bundle that a pipeline asks."""
        return self.agent.models.dir / self.pipelines[pipeline].model.bundle

    def calibration_file(self, pipeline: str) -> Path:
        """Return where `slm-agent calibrate` puts an operator's own calibration."""
        return self.agent.pipelines.dir / f"{pipeline}.calibration.json"

    def calibration(self, pipeline: str) -> Path | None:
        """Return the operator's own calibration, if there is one."""
        path = self.calibration_file(pipeline)
        return path if path.is_file() else None

    def login(self) -> Login:
        """Read the credential files; raises ConfigError."""
        return login_of(self.agent.mqtt)


def login_of(mqtt: Mqtt) -> Login:
    """Read the credential files; raises ConfigError."""
    user = mqtt.username
    if mqtt.username_file:
        user = first_line(mqtt.username_file, "mqtt.username_file")
    secret = None
    if mqtt.password_file:
        secret = first_line(mqtt.password_file, "mqtt.password_file")
    return Login(user or None, secret)


def load(path: Path | None, enable: tuple[str, ...] = ()) -> Config:
    """Load agent.toml and the enabled pipelines; raises ConfigError.

    `path` None means the default path, and built-in defaults where that is missing.
    `enable` replaces the list in the file (for commands about one pipeline).
    """
    if path is None and not exists(DEFAULT_PATH):
        agent = AgentFile()
    else:
        path = path or DEFAULT_PATH
        agent = read_file(AgentFile, path)
    check_tls(agent.mqtt, path or DEFAULT_PATH)
    names = list(enable) or agent.pipelines.enable
    pipelines = {name: _pipeline(agent.pipelines.dir, name) for name in names}
    return assembled(agent, pipelines)


def assembled(agent: AgentFile, pipelines: Mapping[str, PipelineFile]) -> Config:
    """Check what each is for the others; raises ConfigError."""
    check_together(agent, pipelines)
    document = "".join(
        model.model_dump_json() for model in (agent, *pipelines.values())
    )
    digest = hashlib.sha256(document.encode()).hexdigest()
    return Config(agent, pipelines, digest)


def schemas() -> dict[str, Any]:
    """Return a JSON Schema for each kind of file."""
    return {
        "agent.toml": AgentFile.model_json_schema(),
        "pipelines/*.toml": PipelineFile.model_json_schema(),
    }


def _pipeline(folder: Path, name: str) -> PipelineFile:
    path = folder / f"{name}.toml"
    if not exists(path):
        known = sorted(p.stem for p in folder.glob("*.toml"))
        hint = nearest(name, known)
        there = f"there are: {', '.join(known)}" if known else "the folder has none"
        raise ConfigError(f"{path}: no such pipeline{hint} ({there})")
    return read_file(PipelineFile, path)


def read_file(model: type[File], path: Path) -> File:
    """Read a TOML file; raises ConfigError with a line for each thing wrong."""
    try:
        return model.model_validate(read_toml(path), context=path.parent)
    except ValidationError as error:
        lines = [f"{path}: {line}" for line in explain(model, error)]
        raise ConfigError("\n".join(lines)) from error


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as it is; raises ConfigError."""
    return parse_toml(read_bytes(path), path)


def parse_toml(data: bytes, name: str | Path) -> dict[str, Any]:
    """Return what bytes say as TOML; raises ConfigError, naming where they are from."""
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not valid TOML: is no text in UTF-8") from error
    except RecursionError as error:
        raise ConfigError(f"{name}: not valid TOML: nested too deep") from error
    except ValueError as error:  # TOMLDecodeError, and numbers of thousands of digits
        raise ConfigError(
            f"{name}: not valid TOML: {error}; lines read key = value, and a table "
            "begins with [name]"
        ) from error
