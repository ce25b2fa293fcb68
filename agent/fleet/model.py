"""The model of a fleet file: values for all devices, some or one, and the rollout.

One precedence, the later part wins: defaults < the device's own agent.toml < the file's
top level < its layers in their order < the device's entry. There are no priorities.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from agent.config.section import Name, Section

UNSETTABLE = ("agent", "pipelines", "bundles", "variables")
LARGEST_VERSION = 2**53 - 1  # every JSON reader represents it exactly


def _is_variable(value: Any) -> Any:
    inner = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str | int | float) for each in inner):
        raise ValueError("is a string, a number, true or false, or a list of these")
    return value


def _is_label(value: str) -> str:
    if value.startswith("!"):
        raise ValueError("does not begin with '!', which means not equal in selectors")
    return value


def _is_choice(value: str | list[str]) -> str | list[str]:
    marks = {each.startswith("!") for each in listed(value)}
    if len(marks) != 1:
        raise ValueError("is one value or some: all wanted, or all unwanted by '!'")
    return value


def _is_unsettable(key: str) -> str:
    parts = key.split(".")
    if parts[0] not in UNSETTABLE or len(parts) == 1 or "" in parts:
        raise ValueError(f"reads {', '.join(f'{p}.<key>' for p in UNSETTABLE)}")
    return key


Label = Annotated[str, AfterValidator(_is_label)]
Choice = Annotated[str | list[str], AfterValidator(_is_choice)]
Pin = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class Part(Section):
    """A part of the file with values: the top level, a layer, or a device."""

    variables: dict[Name, Annotated[Any, AfterValidator(_is_variable)]] = Field(
        default={}
    )
    """Values of ${name} in strings."""
    bundles: dict[Name, Pin] = Field(default={})
    """Bundles by the sha256 of their manifest.json; a device without it refuses."""
    enable: Annotated[list[Name], Field(min_length=1)] | None = None
    """The pipelines to run."""
    agent: dict[str, Any] = Field(default={})
    """Tables of agent.toml."""
    pipelines: dict[Name, dict[str, Any]] = Field(default={})
    """Tables of pipelines/<name>.toml."""
    unset: list[Annotated[str, AfterValidator(_is_unsettable)]] = Field(default=[])
    """Keys, as "agent.upstream", that count as not set by earlier parts."""


class Condition(Section):
    """Selects devices; all conditions must hold."""

    select: dict[Name, Choice] = Field(default={})
    """Labels: a value, several of which one must match, or unwanted ones ("!value")."""
    devices: list[Name] = Field(default=[])
    """Ids of devices."""


class DeviceGroup(Condition):
    """A condition with a name."""

    name: Name

    @model_validator(mode="after")
    def _says_who(self) -> Self:
        if not (self.select or self.devices):
            raise ValueError("a group needs select or devices")
        return self


class Layer(Part, Condition):
    """Values for the devices that a condition selects."""

    name: Name
    groups: list[Name] = Field(default=[])
    """Groups; the device must be in one of them."""
    over: list[Name] = Field(default=[])
    """Earlier layers whose values this one replaces on purpose; check does not warn."""


class FleetEntry(Part):
    """A device."""

    id: Name
    labels: dict[Name, Label] = Field(default={})


class Rollout(Section):
    """Which devices take this version; the others keep theirs."""

    name: str = Field(min_length=1, max_length=200)
    """Selects the devices: with the same name a larger percentage only adds devices."""
    percent: float = Field(ge=0, le=100, strict=False)
    """The share of devices that take the version."""
    groups: list[Name] = Field(default=[])
    """Groups that take the version in any case."""


class FleetFile(Part):
    """fleet.toml: values at the top level are for all devices."""

    version: int = Field(ge=1, le=LARGEST_VERSION)
    """Must grow with each file: devices take no older version."""
    rollout: Rollout | None = None
    """Absent: every device takes the version."""
    group: list[DeviceGroup] = Field(default=[])
    layer: list[Layer] = Field(default=[])
    device: list[FleetEntry] = Field(default=[])
    devices_file: str | None = None
    """More devices, beside this file: JSON Lines, an object as [[device]] each."""
    unlisted: Literal["refuse", "accept"] = "refuse"
    """Whether devices that are not listed take the file, with their own labels."""


def drawn(rollout: str, device: str) -> float:
    """Return the place of a device in a rollout, from 0 to below 100.

    It is a hash of both names: the same on every machine, whichever devices there are.
    """
    digest = hashlib.sha256(f"{rollout}\n{device}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48 * 100  # exact in a double


def meets(condition: Condition, device: str, labels: Mapping[str, str]) -> bool:
    """Tell whether a device fulfils a condition."""
    if condition.devices and device not in condition.devices:
        return False
    return all(
        _chosen(choice, labels.get(label)) for label, choice in condition.select.items()
    )


def _chosen(choice: str | list[str], value: str | None) -> bool:
    wanted = listed(choice)
    if wanted[0].startswith("!"):
        return f"!{value}" not in wanted
    return value in wanted


def listed(value: str | list[str]) -> list[str]:
    """Return the values of a choice, with their marks."""
    return [value] if isinstance(value, str) else value
