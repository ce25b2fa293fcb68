"""`slm-agent fleet check`: resolve a fleet file for every device, and find errors."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent.core.errors import ConfigError
from agent.core.findings import Finding
from agent.core.words import nearest
from agent.fleet.model import Condition, FleetEntry, listed
from agent.fleet.parse import Fleet
from agent.fleet.resolve import AGENT, DEFAULT, Effective, Resolver, compared, stand_in
from agent.fleet.values import changed, dotted
from agent.mqtt.topic_filters import overlap, split_share

MANY = 5  # at most so many findings about topics for each pipeline and broker
QUOTED = re.compile(r"'[^']*'")
HERE = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class Checked:
    """The configuration of every device, or its error."""

    fleet: Fleet
    devices: Mapping[str, Effective]
    broken: Mapping[str, str] = field(default_factory=dict)


def resolved(fleet: Fleet) -> Checked:
    """Resolve every listed device; errors go to `broken`."""
    resolver = Resolver(fleet)
    devices, broken = {}, {}
    for device in fleet.entries:
        try:
            devices[device] = resolver.resolve(stand_in(device))
        except ConfigError as error:
            broken[device] = str(error)
    return Checked(fleet, devices, broken)


def check(fleet: Fleet, models: Path | None = None) -> list[Finding]:
    """Return findings: errors first, then warnings, then what is fine.

    With `models`, a folder of bundles, the bundles that devices need and pin are
    compared with it.
    """
    checked = resolved(fleet)
    findings = [
        *_broken(checked),
        *_conditions(fleet),
        *_conflicts(fleet),
        *_client_ids(checked),
        *_shared_topics(checked),
        *_idle_pipelines(checked),
        *(_bundles(checked, models) if models else ()),
        *_summary(checked),
    ]
    order = {"error": 0, "warning": 1, "ok": 2}
    return sorted(findings, key=lambda finding: order[finding.level])


def _broken(checked: Checked) -> Iterator[Finding]:
    """Yield each error once, with all devices that have it."""
    alike: dict[str, list[str]] = defaultdict(list)
    details: dict[str, str] = {}
    for device, why in checked.broken.items():
        for line in why.splitlines():
            detail = line.removeprefix(f"{checked.fleet.name}: device {device}: ")
            kind = generic(detail, device, checked.fleet.entries[device])
            alike[kind].append(device)
            details.setdefault(kind, detail)
    for kind, devices in alike.items():
        yield Finding("error", "device", details[kind], tuple(devices))


def generic(message: str, device: str, entry: FleetEntry) -> str:
    """Return a message without the device's own names inside quoted values.

    Then the same error of many devices has the same message.
    """
    own = {device, *entry.labels.values()}
    own |= {each for each in entry.variables.values() if isinstance(each, str)}
    names = sorted(own - {""}, key=len, reverse=True)

    def nameless(quoted: re.Match[str]) -> str:
        text = quoted[0]
        for name in names:
            text = text.replace(name, "\0")
        return text

    return QUOTED.sub(nameless, message)


def _conditions(fleet: Fleet) -> Iterator[Finding]:
    """Find conditions that no device meets, and name the nearest one that exists."""
    if not fleet.entries:
        return
    labels: dict[str, set[str]] = defaultdict(set)
    for entry in fleet.entries.values():
        for label, value in entry.labels.items():
            labels[label].add(value)
    conditions: list[tuple[str, Condition]] = [
        *((f"group {group.name}", group) for group in fleet.file.group),
        *((f"layer {layer.name}", layer) for layer in fleet.file.layer),
    ]
    for where, condition in conditions:
        yield from _unknown(where, condition, labels, fleet.entries)
    used: set[int] = set()
    for device, entry in fleet.entries.items():
        used.update(fleet.layers_of(device, entry.labels))
    for number, layer in enumerate(fleet.file.layer):
        if number not in used:
            yield Finding("warning", f"layer {layer.name}", "is for no device")
    for name in fleet.groups:
        if not any(fleet.is_in([name], d, e.labels) for d, e in fleet.entries.items()):
            yield Finding("warning", f"group {name}", "no device is in it")


def _unknown(
    where: str,
    condition: Condition,
    labels: Mapping[str, set[str]],
    entries: Mapping[str, Any],
) -> Iterator[Finding]:
    for label, choice in condition.select.items():
        if label not in labels:
            hint = nearest(label, list(labels))
            yield Finding("error", where, f"no device has a label {label!r}{hint}")
            continue
        for value in listed(choice):
            plain = value.removeprefix("!")
            if plain not in labels[label]:
                hint = nearest(plain, list(labels[label]))
                yield Finding(
                    "warning", where, f"no device has {label} = {plain!r}{hint}"
                )
    for device in condition.devices:
        if device not in entries:
            hint = nearest(device, list(entries))
            yield Finding("error", where, f"device {device!r} is not listed{hint}")


def _conflicts(fleet: Fleet) -> Iterator[Finding]:
    """Find keys that two layers set differently for one device.

    The later layer wins; with `over` that is intended and not reported.
    """
    together: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for device, entry in fleet.entries.items():
        together[tuple(fleet.layers_of(device, entry.labels))].append(device)
    conflicts: dict[tuple[int, int, str], list[str]] = defaultdict(list)
    for numbers, devices in together.items():
        for one, other in combinations(numbers, 2):
            if fleet.file.layer[one].name in fleet.file.layer[other].over:
                continue
            both = changed(fleet.layers[one].values, fleet.layers[other].values)
            for key, _, _ in both:
                conflicts[one, other, dotted(key)] += devices
    for (one, other, name), alike in conflicts.items():
        below, above = fleet.file.layer[one].name, fleet.file.layer[other].name
        yield Finding(
            "warning",
            f"layer {above}",
            f"sets {name} otherwise than layer {below}, and wins: it stands later; "
            f'over = ["{below}"] says that you mean it',
            tuple(alike),
        )


def _client_ids(checked: Checked) -> Iterator[Finding]:
    """Find client ids that several devices use at one broker."""
    users: dict[tuple[str, str], list[str]] = defaultdict(list)
    for device, effective in checked.devices.items():
        config = effective.config
        users[config.agent.mqtt.url, config.client_id].append(device)
    for (url, client_id), devices in users.items():
        if len(devices) > 1:
            yield Finding(
                "error",
                "mqtt.client_id",
                f"{client_id!r} is that of {len(devices)} devices at {url}: they would "
                "throw each other out",
                tuple(devices),
            )


def _shared_topics(checked: Checked) -> Iterator[Finding]:
    """Find messages that several devices would answer: one broker, one pipeline.

    Only if the fleet file names the broker, and it is not local to each device.
    """
    by_client: dict[tuple[str, str], dict[str, list[str]]] = {}
    for device, effective in checked.devices.items():
        url = effective.config.agent.mqtt.url
        leaf = effective.values.get((AGENT, "mqtt", "url"))
        if leaf is None or leaf.origin == DEFAULT or urlsplit(url).hostname in HERE:
            continue
        for name, pipeline in effective.config.pipelines.items():
            filters = by_client.setdefault((url, name), {})
            for topic in pipeline.input.topics:
                if split_share(topic)[0] is None:
                    filters.setdefault(topic, []).append(device)
    for (url, name), filters in by_client.items():
        for number, (one, other, devices) in enumerate(_meeting(filters)):
            if number == MANY:
                break
            topics = f"{one!r} and {other!r} overlap" if other else f"{one!r} is read"
            yield Finding(
                "warning",
                f"pipeline {name}",
                f"{topics}: {len(devices)} devices at {url} would each answer the "
                "same message; $share/<group>/... shares them",
                tuple(devices),
            )


def _meeting(
    filters: Mapping[str, Sequence[str]],
) -> Iterator[tuple[str, str, list[str]]]:
    for topic, devices in filters.items():
        if len(devices) > 1:
            yield topic, "", list(devices)
    for one, other in _overlapping(list(filters)):
        both = dict.fromkeys([*filters[one], *filters[other]])
        if len(both) > 1:
            yield one, other, list(both)


def _overlapping(topics: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of filters that overlap, without comparing all pairs.

    The levels before the first wildcard are a filter's head. Two filters can only
    overlap if the head of one begins with the head of the other.
    """
    starts: dict[tuple[str, ...], list[str]] = defaultdict(list)
    heads: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for topic in topics:  # each pair once: compare with earlier filters
        levels = topic.split("/")
        until = [n for n, level in enumerate(levels) if level in {"+", "#"}]
        head = tuple(levels[: until[0] if until else len(levels)])
        shorter = [head[:length] for length in range(len(head))]
        near = [*starts[head], *(each for part in shorter for each in heads[part])]
        yield from ((other, topic) for other in near if overlap(other, topic))
        heads[head].append(topic)
        for part in (*shorter, head):
            starts[part].append(topic)


def _idle_pipelines(checked: Checked) -> Iterator[Finding]:
    fleet = checked.fleet
    if not fleet.entries:
        return
    parts = [fleet.file, *fleet.file.layer, *fleet.entries.values()]
    named = {name for part in parts for name in part.pipelines}
    enabled = {n for e in checked.devices.values() for n in e.config.pipelines}
    broken = bool(checked.broken)  # they may run it
    for name in sorted(named - enabled) if not broken else ():
        yield Finding("warning", f"pipeline {name}", "runs on no device")


def _bundles(checked: Checked, models: Path) -> Iterator[Finding]:
    """Compare the bundles that devices need and pin with a folder of bundles."""
    alike: dict[str, list[str]] = defaultdict(list)
    for device, effective in checked.devices.items():
        for why in compared(effective, models):
            alike[why].append(device)
    for why, devices in alike.items():
        yield Finding("error", "bundles", why, tuple(devices))
    pinned = {item for e in checked.devices.values() for item in e.bundles.items()}
    if pinned and not alike:
        yield Finding("ok", "bundles", f"{len(pinned)} pins are as in {models}")


def _summary(checked: Checked) -> Iterator[Finding]:
    fleet, devices = checked.fleet, checked.devices
    if not fleet.entries:
        yield Finding("warning", "device", "none is listed, so none was resolved")
        return
    if devices:
        kinds = {
            tuple(fleet.layers_of(device, fleet.entries[device].labels))
            for device in devices
        }
        yield Finding(
            "ok",
            f"version {fleet.version}",
            f"{len(devices)} devices resolve, with {len(kinds)} combinations of layers",
        )
    rollout = fleet.file.rollout
    if rollout is None:
        return
    takes = takers(fleet)
    yield Finding(
        "ok" if takes else "warning",
        f"rollout {rollout.name}",
        f"{rollout.percent:g} %: {len(takes)} of {len(fleet.entries)} devices take it",
        tuple(takes),
    )


def takers(fleet: Fleet) -> list[str]:
    """Return the listed devices that take this version now."""
    return [d for d, entry in fleet.entries.items() if fleet.takes(d, entry.labels)]


def worst(findings: Iterable[Finding]) -> bool:
    """Tell whether any finding is an error."""
    return any(finding.level == "error" for finding in findings)
