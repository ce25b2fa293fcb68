"""What a data set is labelled with: the classes of a bundle, in their order."""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.core.errors import ConfigError
from agent.evaluation.examples import Example


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The labels and entities that a data set has, in their order in the model."""

    labels: tuple[str, ...]
    entities: tuple[str, ...]
    outside: str | None = None  # the label of texts that are none of these
    levels: int = 1  # how deep entities may lie in one another

    @property
    def classes(self) -> int:
        """The labels, and what is outside of them."""
        return len(self.labels) + (self.outside is not None)

    @property
    def tags(self) -> int:
        """O, and B- and I- for each entity; 0 where there are no entities."""
        return 1 + 2 * len(self.entities) if self.entities else 0

    def index(self, label: str) -> int:
        """Return the class of a label."""
        return self.classes - 1 if label == self.outside else self.labels.index(label)


def catalogue(
    examples: Sequence[Example], outside: str | None = None, levels: int = 1
) -> Catalogue:
    """Return what the examples are labelled with, sorted; raises ConfigError."""
    labels = {example.label for example in examples if example.label is not None}
    labels.discard(outside or "")
    entities = {span.label for example in examples for span in example.marked}
    if not labels and not entities:
        raise ConfigError("the examples have neither labels nor spans")
    return Catalogue(tuple(sorted(labels)), tuple(sorted(entities)), outside, levels)
