"""What a data set is labelled with: the classes of a bundle, in their order."""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.errors import ConfigError
from agent.examples import Example


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The labels and entities that a data set has, in their order in the model."""

    labels: tuple[str, ...]
    entities: tuple[str, ...]

    @property
    def tags(self) -> int:
        """O, and B- and I- for each entity; 0 where there are no entities."""
        return 1 + 2 * len(self.entities) if self.entities else 0


def catalogue(examples: Sequence[Example]) -> Catalogue:
    """Return what the examples are labelled with, sorted; raises ConfigError."""
    labels = {example.label for example in examples if example.label is not None}
    entities = {span.label for example in examples for span in example.spans}
    if not labels and not entities:
        raise ConfigError("the examples have neither labels nor spans")
    return Catalogue(tuple(sorted(labels)), tuple(sorted(entities)))
