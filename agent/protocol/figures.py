"""What a number of health is besides: a metric, and what Home Assistant shows of it.

Written beside the type of the field, `Annotated[int, Gauge("in_hand", "...")]`, so that
a number has one place.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number that goes up and down, None where it is not known.

    `labels` name the keys of a mapping, from outside in; the names of a list are keys
    whose number is 1.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Counter:
    """A number that only grows, until the next start; else as `Gauge`.

    `values` of the last label are 0 from the start: who alerts on a rate would miss
    the first of a number that was not there before.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quantile:
    """Milliseconds that are a quantile of a metric in seconds."""

    name: str
    help: str
    quantile: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """`Durations`, which add up over devices as quantiles do not."""

    name: str
    help: str


@dataclass(frozen=True, slots=True)
class Durations:
    """How many took at most so long, by seconds; how many there were; their sum."""

    le: Mapping[str, int] = field(default_factory=dict)
    count: int = 0
    sum_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Info:
    """A mapping of names to words; both are labels, `label` and `word`."""

    name: str
    help: str
    label: str
    word: str


@dataclass(frozen=True, slots=True)
class Sensor:
    """What Home Assistant shows; `more` are keys of its discovery payload.

    `part` is shown of a value that has several.
    """

    name: str
    title: str
    more: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""


Metric = Gauge | Counter | Quantile | Histogram | Info


def notes(
    kind: type, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield what stands beside the types of fields, each with the way there.

    `kind` is a dataclass; those inside it are gone through as well.
    """
    hints = get_type_hints(kind, include_extras=True)
    for each in fields(kind):
        hint, way = hints[each.name], (*path, each.name)
        for note in getattr(hint, "__metadata__", ()):
            yield way, note
        for inner in (hint, *getattr(hint, "__args__", ())):
            if isinstance(inner, type) and is_dataclass(inner):
                yield from notes(inner, way)
