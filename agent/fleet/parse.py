"""Read a fleet file; errors that do not depend on a device are found here."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from agent.config.agent_file import AgentFile
from agent.config.load import parse_toml
from agent.config.pipeline_file import PipelineFile
from agent.core.errors import ConfigError
from agent.core.explain import explain, explain_one
from agent.core.files import read_bytes
from agent.fleet.model import DeviceGroup, FleetEntry, FleetFile, Part, drawn, meets
from agent.fleet.signing import Content, Untrusted, opened
from agent.fleet.values import Key, Sourced, dotted, flat

BASE = "base"
# Keys that a fleet file may not set, and why.
LOCAL: tuple[tuple[Key, str], ...] = (
    (("device",), "a device's id and labels stand in its entry"),
    (("state",), "places stay the device's own"),
    (("fleet",), "whom a device believes stays its own"),
    (("pipelines",), "write enable = [...] beside agent"),
    (("models", "dir"), "places stay the device's own"),
)


@dataclass(frozen=True, slots=True)
class LayerValues:
    """The values of a part by their paths, and the paths that it unsets."""

    name: str
    values: Mapping[Key, Sourced]
    unset: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet file that was read, with its values as layers."""

    file: FleetFile
    content: Content
    name: str
    groups: Mapping[str, DeviceGroup]
    entries: Mapping[str, FleetEntry]
    base: LayerValues
    layers: tuple[LayerValues, ...]

    @property
    def version(self) -> int:
        """The version of the file."""
        return self.file.version

    def labels(self, device: str, own: Mapping[str, str]) -> Mapping[str, str]:
        """Return a device's labels: those of its entry, else its own."""
        entry = self.entries.get(device)
        return own if entry is None else entry.labels

    def layers_of(self, device: str, labels: Mapping[str, str]) -> list[int]:
        """Return the numbers of the layers that are for a device, in order."""
        return [
            number
            for number, layer in enumerate(self.file.layer)
            if meets(layer, device, labels)
            and (not layer.groups or self.is_in(layer.groups, device, labels))
        ]

    def is_in(
        self, groups: Iterable[str], device: str, labels: Mapping[str, str]
    ) -> bool:
        """Tell whether a device is in one of these groups."""
        return any(meets(self.groups[name], device, labels) for name in groups)

    def takes(self, device: str, labels: Mapping[str, str]) -> bool:
        """Tell whether a device takes this version now."""
        rollout = self.file.rollout
        if rollout is None or self.is_in(rollout.groups, device, labels):
            return True
        return drawn(rollout.name, device) < rollout.percent


def read_path(path: Path) -> Fleet:
    """Read a fleet file, signed or plain; raises ConfigError, one line each.

    The signature is not checked: this is for the operator's desk, not for devices.
    """
    data = read_bytes(path)
    if data.startswith(b"{"):
        try:
            return read(opened(data), path.name)
        except Untrusted as error:
            raise ConfigError(f"{path}: {error}") from error
    file = _file(data, path.name)
    more = file.devices_file
    devices = None if more is None else read_bytes(path.parent / more)
    return _read(file, Content(data, devices), path.name)


def read(content: Content, name: str) -> Fleet:
    """Parse a fleet file and its list of devices; raises ConfigError, one line each.

    `name` is that of the file, for errors.
    """
    return _read(_file(content.fleet, name), content, name)


def _file(toml: bytes, name: str) -> FleetFile:
    try:
        return FleetFile.model_validate(parse_toml(toml, name))
    except ValidationError as error:
        lines = [f"{name}: {line}" for line in explain(FleetFile, error)]
        raise ConfigError("\n".join(lines)) from error


def _read(file: FleetFile, content: Content, name: str) -> Fleet:
    devices = content.devices
    if (devices is None) != (file.devices_file is None):
        raise ConfigError(f"{name}: devices_file: goes together with a list of devices")
    more = _entries(devices, file.devices_file) if devices is not None else []
    entries = [*file.device, *more]
    wrong = [f"{name}: {line}" for line in _wrong(file, entries)]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return Fleet(
        file=file,
        content=content,
        name=name,
        groups={group.name: group for group in file.group},
        entries={entry.id: entry for entry in entries},
        base=layer_values(file, BASE),
        layers=tuple(
            layer_values(layer, f"layer {layer.name}") for layer in file.layer
        ),
    )


def _entries(data: bytes, name: str | None) -> list[FleetEntry]:
    entries, wrong = [], []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            entries.append(FleetEntry.model_validate_json(line))
        except ValidationError as error:
            why = explain(FleetEntry, error)
            wrong += [f"{name}: line {number}: {line}" for line in why]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return entries


def layer_values(part: Part, name: str) -> LayerValues:
    """Return the values that a part sets, by their paths; `name` is their origin."""
    document: dict[str, Any] = {
        "variables": part.variables,
        "bundles": part.bundles,
        "agent": part.agent,
        "pipelines": part.pipelines,
    }
    if part.enable is not None:
        document["enable"] = part.enable
    given = {key: value for key, value in document.items() if value != {}}
    unset = tuple(tuple(key.split(".")) for key in part.unset)
    return LayerValues(name, flat(given, name), unset)


def _wrong(file: FleetFile, entries: Sequence[FleetEntry]) -> Iterator[str]:
    """Yield errors that do not depend on a device."""
    yield from _twice("device", [entry.id for entry in entries])
    yield from _twice("layer", [layer.name for layer in file.layer])
    yield from _twice("group", [group.name for group in file.group])
    groups = {group.name for group in file.group}
    before: set[str] = set()
    for layer in file.layer:
        where = f"layer {layer.name!r}"
        for each in sorted(set(layer.groups) - groups):
            yield f"{where}: groups: there is no group {each!r}"
        for each in sorted(set(layer.over) - before):
            yield f"{where}: over: no earlier layer is called {each!r}"
        before.add(layer.name)
    for each in sorted(set(file.rollout.groups if file.rollout else ()) - groups):
        yield f"rollout: groups: there is no group {each!r}"
    yield from _wrong_values(file, BASE)
    for layer in file.layer:
        yield from _wrong_values(layer, f"layer {layer.name!r}")
    for entry in entries:
        yield from _wrong_values(entry, f"device {entry.id!r}")


def _twice(what: str, names: Sequence[str]) -> Iterator[str]:
    for name, times in Counter(names).items():
        if times > 1:
            yield f"{what} {name!r} stands there {times} times"


def _wrong_values(part: Part, where: str) -> Iterator[str]:
    for key, why in LOCAL:
        if _has(part.agent, key):
            yield f"{where}: agent.{dotted(key)}: not in a fleet file: {why}"
    for gone in part.unset:
        key = tuple(gone.split("."))[1:]
        for local, why in LOCAL if gone.startswith("agent.") else ():
            if key[: len(local)] == local[: len(key)]:
                yield f"{where}: unset: {gone}: not by a fleet file: {why}"
    for line in _partly_wrong(AgentFile, part.agent):
        yield f"{where}: agent.{line}"
    for name, document in part.pipelines.items():
        for line in _partly_wrong(PipelineFile, document):
            yield f"{where}: pipelines.{name}.{line}"


def _has(document: Mapping[str, Any], key: Key) -> bool:
    inner: Any = document
    for part in key:
        if not isinstance(inner, Mapping) or part not in inner:
            return False
        inner = inner[part]
    return True


def _partly_wrong(model: type[BaseModel], document: dict[str, Any]) -> Iterator[str]:
    """Yield errors of a part that no other part can mend.

    Missing keys, values of variables, and conditions on a whole table do not count:
    another part may bring what is missing.
    """
    if not document:
        return
    upstream = document.get("upstream")
    if (
        model is AgentFile
        and isinstance(upstream, dict)
        and "transport" not in upstream
    ):
        yield from _wrong_either_way(document, upstream)
        return
    try:
        model.model_validate(document)
    except ValidationError as error:
        for each in error.errors():
            pending = isinstance(each["input"], str) and "${" in each["input"]
            if each["type"] != "missing" and each["loc"] and not pending:
                yield explain_one(model, each)


def _wrong_either_way(
    document: dict[str, Any], upstream: dict[str, Any]
) -> Iterator[str]:
    """Yield errors that hold whichever transport another layer chooses."""
    mqtt, http = (
        list(
            _partly_wrong(
                AgentFile, {**document, "upstream": {**upstream, "transport": name}}
            )
        )
        for name in ("mqtt", "http")
    )
    yield from (line for line in mqtt if line in http)
