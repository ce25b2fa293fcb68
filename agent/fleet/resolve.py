"""Resolve a fleet file for one device: its configuration, and each value's origin.

The result depends only on the fleet file, the device's own files and this version of
the software, so that an operator can see it beforehand.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from agent.config.agent_file import AgentFile, Pipelines
from agent.config.checks import check_tls
from agent.config.load import Config, assembled, read_file, read_toml
from agent.config.pipeline_file import PipelineFile
from agent.config.section import shipped
from agent.core.errors import ConfigError
from agent.core.explain import explain_one, key_path
from agent.core.files import exists
from agent.core.words import nearest
from agent.fleet.parse import Fleet, LayerValues, layer_values
from agent.fleet.values import (
    Key,
    Sourced,
    Undefined,
    Values,
    filled,
    flat,
    nested,
    overlay,
)
from agent.inference.manifest import MANIFEST

DEFAULT = "default"
LOCAL = "local"  # agent.toml and pipelines/ of the device itself
SHIPPED = "shipped"  # the pipelines of this version of the software
AGENT, PIPELINES, BUNDLES, ENABLE = "agent", "pipelines", "bundles", ("enable",)
# Tables that only the device knows; they are not reported as drift.
BOOTSTRAP = {"device", "mqtt", "state", "fleet"}
HEADER = 1024  # bytes of a packet around a fleet file, but for a very long topic
PLACES = {("pipelines", "dir"), ("models", "dir")}

File = TypeVar("File", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Local:
    """A device's own files: the lowest layer.

    `folder` is that of agent.toml, where all relative paths start, also those of the
    fleet file.
    """

    id: str
    labels: Mapping[str, str]
    folder: Path
    pipelines_dir: Path
    values: Values = field(repr=False)

    def pipeline(self, name: str) -> Values:
        """Return the values of a pipeline's own or shipped file; empty if it has none.

        Raises ConfigError.
        """
        path = self.pipelines_dir / f"{name}.toml"
        if not exists(path):
            return {}
        origin = SHIPPED if self.pipelines_dir == shipped("pipelines") else LOCAL
        return flat(read_toml(path), origin, (PIPELINES, name))


def read_local(path: Path | None) -> Local:
    """Read a device's own agent.toml; None stands for an empty one.

    Raises ConfigError.
    """
    if path is None:
        return _local(AgentFile(), {}, Path())
    return _local(read_file(AgentFile, path), read_toml(path), path.parent)


def stand_in(device: str) -> Local:
    """Return empty own files for a device, whose real ones are not at hand."""
    return Local(device, {}, Path(), shipped("pipelines"), {})


def _local(agent: AgentFile, document: dict[str, Any], folder: Path) -> Local:
    values = flat(document, LOCAL, (AGENT,))
    enabled = values.pop((AGENT, "pipelines", "enable"), None)
    if enabled is not None:
        values[ENABLE] = enabled
    return Local(
        agent.device.id, agent.device.labels, folder, agent.pipelines.dir, values
    )


@dataclass(frozen=True, slots=True)
class Effective:
    """A device's configuration.

    `values` has every key that any part set; `bundles` pins bundles by name, as
    `sha256:...` of their manifest.
    """

    version: int
    config: Config
    bundles: Mapping[str, str]
    values: Values = field(repr=False)

    @property
    def device(self) -> str:
        """The device's id."""
        return self.config.agent.device.id

    def rows(self) -> dict[Key, Sourced]:
        """Return every key with its value and origin, those by default as well."""
        document = {
            AGENT: self.config.agent.model_dump(mode="json"),
            PIPELINES: {
                name: pipeline.model_dump(mode="json")
                for name, pipeline in self.config.pipelines.items()
            },
            BUNDLES: dict(self.bundles),
        }
        rows: dict[Key, Sourced] = {}
        for key, leaf in flat(document, DEFAULT).items():
            place = ENABLE if key == (AGENT, "pipelines", "enable") else key
            given = self.values.get(place)
            if given is not None:
                rows[key] = Sourced(leaf.value, given.origin, given.used)
            elif leaf.value != {}:
                rows[key] = leaf
        return rows

    def drift(self) -> list[str]:
        """Return the keys that the device's own files set and the fleet file does not.

        Tables that only the device knows (BOOTSTRAP, PLACES) are left out.
        """
        return sorted(
            ".".join(key)
            for key, leaf in self.values.items()
            if leaf.origin == LOCAL
            and not (key[0] == AGENT and (key[1] in BOOTSTRAP or key[1:] in PLACES))
        )

    @property
    def content(self) -> str:
        """A name of the configuration and pins.

        Two versions with the same content are the same for a device.
        """
        pins = json.dumps(dict(self.bundles), sort_keys=True)
        return f"{self.config.hash} {pins}"


class Resolver:
    """Resolves the devices of one fleet; owns the results that many of them share."""

    def __init__(self, fleet: Fleet) -> None:
        """Nothing is resolved yet."""
        self._fleet = fleet
        self._merged: dict[
            tuple[tuple[int, ...], tuple[str, ...]], dict[Key, Sourced]
        ] = {}
        self._files: dict[str, BaseModel] = {}
        self._local: dict[tuple[Path, str], Values] = {}

    def resolve(self, local: Local) -> Effective:
        """Return the configuration of a device; raises ConfigError, one line each."""
        fleet, device = self._fleet, local.id
        entry = fleet.entries.get(device)
        if entry is None and fleet.file.unlisted == "refuse":
            raise ConfigError(f"{fleet.name}: device {device!r} is not listed")
        labels = fleet.labels(device, local.labels)
        numbers = fleet.layers_of(device, labels)
        own = [layer_values(entry, "device")] if entry else []
        try:
            values = self._values(local, numbers, own, labels)
        except Undefined as error:
            raise ConfigError(f"{fleet.name}: device {device}: {error}") from error
        return self._effective(local, labels, values)

    def _values(
        self,
        local: Local,
        numbers: list[int],
        own: list[LayerValues],
        labels: Mapping[str, str],
    ) -> dict[Key, Sourced]:
        fleet = self._fleet
        parts = [fleet.base, *(fleet.layers[number] for number in numbers), *own]
        names = _enabled([local.values, *(part.values for part in parts)])
        bottom: dict[Key, Sourced] = dict(local.values)
        for name in names:
            bottom |= self._pipeline(local, name)
        if local.values:
            merged = _stacked(bottom, parts)
        else:  # many devices share all but their own part
            shared = (tuple(numbers), tuple(names))
            if shared not in self._merged:
                self._merged[shared] = _stacked(bottom, parts[: len(numbers) + 1])
            merged = _stacked(self._merged[shared], own)
        built_in = {"device.id": local.id}
        built_in |= {f"label.{label}": value for label, value in labels.items()}
        wanted = {
            key: leaf
            for key, leaf in merged.items()
            if key[0] != PIPELINES or key[1] in names
        }
        return filled(wanted, built_in, literal={LOCAL, SHIPPED})

    def _pipeline(self, local: Local, name: str) -> Values:
        place = (local.pipelines_dir, name)
        if place not in self._local:
            self._local[place] = local.pipeline(name)
        return self._local[place]

    def _effective(
        self, local: Local, labels: Mapping[str, str], values: dict[Key, Sourced]
    ) -> Effective:
        where = f"{self._fleet.name}: device {local.id}"
        agent_document = nested(values, (AGENT,))
        names = _enabled([values])
        agent_document.setdefault("pipelines", {})["enable"] = names
        agent_document["device"] = {"id": local.id, "labels": dict(labels)}
        agent = self._file(AgentFile, agent_document, (AGENT,), local, values)
        pipelines = {}
        for name in names:
            document = nested(values, (PIPELINES, name))
            if not document:
                raise ConfigError(f"{where}: enable: {_no_pipeline(name, values)}")
            pipelines[name] = self._file(
                PipelineFile, document, (PIPELINES, name), local, values
            )
        try:
            check_tls(agent.mqtt, Path("agent"))
            config = assembled(agent, pipelines)
        except ConfigError as error:
            why = re.sub(r"^pipelines/(\S+)\.toml: ", r"pipelines.\1.", str(error))
            why = why.replace("agent: ", "agent.", 1)
            raise ConfigError(f"{where}: {why}") from error
        pins = {str(k): str(v) for k, v in nested(values, (BUNDLES,)).items()}
        origin = "device" if local.id in self._fleet.entries else LOCAL
        device = {"id": local.id, "labels": dict(labels)}
        identity = flat(device, origin, (AGENT, "device"))
        return Effective(self._fleet.version, config, pins, {**values, **identity})

    def _file(
        self,
        model: type[File],
        document: dict[str, Any],
        prefix: Key,
        local: Local,
        values: Values,
    ) -> File:
        """Validate a file as config does; equal files of many devices only once."""
        content = f"{model.__name__} {local.folder} {json.dumps(document, default=str)}"
        validated = self._files.get(content)
        if isinstance(validated, model):
            return validated
        try:
            made = model.model_validate(document, context=local.folder)
        except ValidationError as error:
            name, device = self._fleet.name, local.id
            lines = [
                f"{name}: device {device}: "
                f"{_origin(values, (*prefix, *key_path(model, each['loc']).keys))}"
                f"{'.'.join(prefix)}.{explain_one(model, each)}"
                for each in error.errors()
            ]
            raise ConfigError("\n".join(lines)) from error
        self._files[content] = made
        return made


def check_pins(effective: Effective) -> None:
    """Compare bundles on the device with their pins; raises ConfigError.

    A pin applies to the bundles of the pipelines, and to others that are on the device.
    """
    folder = effective.config.agent.models.dir
    there = {name for name in effective.bundles if (folder / name / MANIFEST).exists()}
    wrong = [
        why
        for name, why in _differing(effective.bundles, folder)
        if name in there | asked(effective)
    ]
    if wrong:
        raise ConfigError("\n".join(wrong))


def check_room(effective: Effective, size: int) -> None:
    """Refuse a packet limit that leaves no room for such a file; raises ConfigError."""
    limit, needed = effective.config.agent.mqtt.max_packet_bytes, size + HEADER
    if limit < needed:
        raise ConfigError(
            f"agent.mqtt.max_packet_bytes: {limit} is less than this file needs "
            f"({needed}), so the next one would not arrive"
        )


def compared(effective: Effective, folder: Path) -> list[str]:
    """Return errors for bundles that a folder lacks, or has in another version."""
    missing = [
        f"{folder / name}: no such bundle"
        for name in sorted(asked(effective) - effective.bundles.keys())
        if not (folder / name / MANIFEST).exists()
    ]
    return missing + [why for _, why in _differing(effective.bundles, folder)]


def asked(effective: Effective) -> set[str]:
    """Return the names of the bundles that the pipelines use."""
    return {p.model.bundle for p in effective.config.pipelines.values()}


def _differing(pins: Mapping[str, str], folder: Path) -> Iterator[tuple[str, str]]:
    for name, pin in pins.items():
        path = folder / name / MANIFEST
        try:
            digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        except OSError as error:
            yield name, f"bundles.{name}: {path}: {error.strerror or error}"
            continue
        if digest != pin:
            yield (
                name,
                f"bundles.{name}: {path} is {digest[:19]}..., pinned is {pin[:19]}...",
            )


def _stacked(bottom: Values, parts: Iterable[LayerValues]) -> dict[Key, Sourced]:
    values = dict(bottom)
    for part in parts:
        if part.values or part.unset:
            values = overlay(values, part.values, part.unset)
    return values


def _enabled(stack: list[Values]) -> list[str]:
    """Return the enabled pipelines, of the last layer that names any, or by default."""
    for values in reversed(stack):
        if ENABLE in values:
            return list(values[ENABLE].value)
    return Pipelines().enable


def _origin(values: Values, key: Key) -> str:
    """Return the origin of a key, or of the list or table around it, as `origin: `."""
    for length in range(len(key), 0, -1):
        leaf = values.get(key[:length])
        if leaf is not None:
            return f"{leaf.where}: "
    return ""


def _no_pipeline(name: str, values: Values) -> str:
    enabled = values.get(ENABLE)
    by = f" ({enabled.where})" if enabled else ""
    names = sorted(path.stem for path in shipped("pipelines").glob("*.toml"))
    return f"there is no pipeline {name!r}{nearest(name, names)}{by}"
