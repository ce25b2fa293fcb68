"""`slm-agent fleet diff`: which devices a new fleet file changes, and what."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.fleet.checks import Checked, generic, resolved, takers
from agent.fleet.model import FleetEntry
from agent.fleet.parse import Fleet
from agent.fleet.resolve import AGENT, Effective
from agent.fleet.values import Key, Sourced, dotted

# After a mistake here the device can no longer be reached.
LIFELINES = {(AGENT, "mqtt")}


@dataclass(frozen=True, slots=True)
class Change:
    """A key with its old and new value, as in JSON; None if it has none."""

    key: str
    old: Any
    new: Any
    origin: str

    @property
    def risky(self) -> bool:
        """Whether a mistake here would cut the device off."""
        return any(self.key.startswith(f"{dotted(line)}.") for line in LIFELINES)


@dataclass(frozen=True, slots=True)
class ChangeGroup:
    """Devices with the same changes, and those of them that take the version now."""

    devices: tuple[str, ...]
    now: tuple[str, ...]
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class DiffReport:
    """The changes that a new fleet file makes.

    `devices` is the number of devices; `broken` has an error for each device whose new
    configuration is invalid.
    """

    old_version: int
    new_version: int
    devices: int
    alike: tuple[ChangeGroup, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    broken: Mapping[str, str]

    @property
    def changed(self) -> int:
        """The number of devices that change."""
        return sum(len(group.devices) for group in self.alike)

    @property
    def now(self) -> int:
        """The number of devices that change now, by the rollout."""
        return sum(len(group.now) for group in self.alike)


def diff_report(old: Fleet, new: Fleet) -> DiffReport:
    """Compare the configurations of every device under two fleet files."""
    before, after = resolved(old), resolved(new)
    now = set(takers(new))
    groups: dict[str, list[str]] = defaultdict(list)
    changes: dict[str, tuple[Change, ...]] = {}
    for device, own in _changes(before, after):
        kind = _kind(own, device, new.entries[device])
        groups[kind].append(device)
        changes.setdefault(kind, own)
    alike = (
        ChangeGroup(
            tuple(devices), tuple(d for d in devices if d in now), changes[kind]
        )
        for kind, devices in groups.items()
    )
    return DiffReport(
        old_version=old.version,
        new_version=new.version,
        devices=len(new.entries),
        alike=tuple(sorted(alike, key=lambda group: -len(group.devices))),
        added=tuple(d for d in new.entries if d not in old.entries),
        removed=tuple(d for d in old.entries if d not in new.entries),
        broken=after.broken,
    )


def _kind(changes: tuple[Change, ...], device: str, entry: FleetEntry) -> str:
    """Return a name for changes; equal if only the device's own names differ."""
    values = (repr((change.old, change.new)) for change in changes)
    keys = [(change.key, change.origin) for change in changes]
    return f"{keys} {[generic(value, device, entry) for value in values]}"


def _changes(
    before: Checked, after: Checked
) -> Iterator[tuple[str, tuple[Change, ...]]]:
    for device, effective in after.devices.items():
        was = before.devices.get(device)
        if was is None or was.content == effective.content:
            continue
        changes = tuple(_between(was, effective))
        if changes:
            yield device, changes


def _between(old: Effective, new: Effective) -> Iterator[Change]:
    before, after = old.rows(), new.rows()
    for key in dict.fromkeys([*before, *after]):
        one, other = _value(before, key), _value(after, key)
        if one != other:
            origin = after[key].where if key in after else "default"
            yield Change(dotted(key), one, other, origin)


def _value(rows: Mapping[Key, Sourced], key: Key) -> Any:
    leaf = rows.get(key)
    return None if leaf is None else leaf.value
