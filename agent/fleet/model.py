"""The fleet file: values for all devices, for some, for one; and who takes them now.

One precedence, without ties, later wins:
defaults < the device's own agent.toml < the file's top level < its layers in their
order < the device's entry. Numbers of priority do not exist.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from agent.config.section import Name, Section

UNSETTABLE = ("agent", "pipelines", "bundles", "variables")
LARGEST_VERSION = 2**53 - 1  # what every JSON reader keeps exactly


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
    """Values: for all devices, for those of a layer, or for one."""

    variables: dict[Name, Annotated[Any, AfterValidator(_is_variable)]] = Field(
        default={}
    )
    """For ${name} in strings."""
    bundles: dict[Name, Pin] = Field(default={})
    """Bundles by the sha256 of their manifest.json; a device without it refuses."""
    enable: Annotated[list[Name], Field(min_length=1)] | None = None
    """The pipelines to run."""
    agent: dict[str, Any] = Field(default={})
    """Tables of agent.toml."""
    pipelines: dict[Name, dict[str, Any]] = Field(default={})
    """Tables of pipelines/<name>.toml."""
    unset: list[Annotated[str, AfterValidator(_is_unsettable)]] = Field(default=[])
    """Keys to be as if nobody below had set them, as "agent.upstream"."""


class Condition(Section):
    """Which devices; all that is given must hold."""

    select: dict[Name, Choice] = Field(default={})
    """Labels: a value, some of which one must hold, or unwanted ones as "!value"."""
    devices: list[Name] = Field(default=[])
    """Ids."""


class DeviceGroup(Condition):
    """A condition with a name."""

    name: Name

    @model_validator(mode="after")
    def _says_who(self) -> Self:
        if not (self.select or self.devices):
            raise ValueError("a group needs select or devices")
        return self


class Layer(Part, Condition):
    """Values for some devices."""

    name: Name
    groups: list[Name] = Field(default=[])
    """Groups, of which the device must be in one."""
    over: list[Name] = Field(default=[])
    """Earlier layers whose values this one means to replace; check is silent then."""


class FleetEntry(Part):
    """A device."""

    id: Name
    labels: dict[Name, Label] = Field(default={})


class Rollout(Section):
    """Who takes this version; the others keep what they have."""

    name: str = Field(min_length=1, max_length=200)
    """Draws the devices: as long as it stays, a larger percentage only adds some."""
    percent: float = Field(ge=0, le=100, strict=False)
    """The share that takes it."""
    groups: list[Name] = Field(default=[])
    """Groups that take it in any case."""


class FleetFile(Part):
    """fleet.toml; values at the top level are for all devices."""

    version: int = Field(ge=1, le=LARGEST_VERSION)
    """Larger than any before: devices take no older one."""
    rollout: Rollout | None = None
    """Absent: every device takes it."""
    group: list[DeviceGroup] = Field(default=[])
    layer: list[Layer] = Field(default=[])
    device: list[FleetEntry] = Field(default=[])
    devices_file: str | None = None
    """More devices, beside this file: JSON Lines, an object as [[device]] each."""
    unlisted: Literal["refuse", "accept"] = "refuse"
    """What a device does that is not listed; accepted, it has its own labels."""


def drawn(rollout: str, device: str) -> float:
    """Return where in a rollout a device's turn is, from 0 to below 100.

    A hash: the same on every machine, and independent of the other devices.
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
