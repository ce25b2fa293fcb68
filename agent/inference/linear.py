"""The `linear` family: hashed n-grams and int8 weights; microseconds, numpy only.

A text is the set of its words, word pairs, and character n-grams inside words, hashed
into a table of weights. It is right at little cost where the wording shows the answer.

It predicts labels, and whether the text has entities, but no entities: a later tier
must answer a text with entities.
"""

import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from agent.core.errors import BundleError
from agent.core.types import Form, RawPrediction, Tier
from agent.inference.calibration import log_odds
from agent.inference.folding import View
from agent.inference.reading import Reading, open_reading

WORD = re.compile(r"\w+|[^\w\s]")
LONGEST_WORD = 40  # characters of a word that are used; hostile texts have longer ones
SHORTEST, LONGEST = 2, 5  # characters of an n-gram, including the marks < and >

Floats = NDArray[np.float32]


class LinearSpec(BaseModel):
    """A linear tier in a bundle's manifest; file names are inside the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["linear"]
    weights: str
    """An .npz: `weights` (int8, 2**bits x columns), `scale` and `bias` (columns)."""
    bits: int = Field(ge=4, le=20)
    outside: bool = False
    """Whether the column after the labels is for texts out of scope."""
    forms: bool = False
    """Whether the last columns are for the forms of utterances."""
    words: str | None = None
    """Words that were taught: texts are read by them (reading.py)."""

    @property
    def by(self) -> Tier:
        """The tier in results."""
        return Tier.LINEAR

    @property
    def needed(self) -> tuple[str, ...]:
        """The files without which the tier cannot be loaded."""
        return (self.weights, self.words) if self.words else (self.weights,)

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the bundle that this tier consists of."""
        return self.needed

    def load(
        self, folder: Path, labels: list[str], entities: list[str], threads: int
    ) -> "Linear":
        """Open the weights; raises BundleError if they do not fit the labels."""
        del threads  # it needs one only
        with np.load(folder / self.weights, allow_pickle=False) as arrays:
            weights, scale, bias = (
                arrays[name] for name in ("weights", "scale", "bias")
            )
        columns = len(labels) + self.outside + bool(entities)
        columns += self.forms * len(Form)
        if weights.shape != (1 << self.bits, columns) or weights.dtype != np.int8:
            raise BundleError(
                f"{self.weights}: the manifest needs int8 {1 << self.bits} x {columns},"
                f" the file has {weights.dtype} {weights.shape}"
            )
        if scale.shape != (columns,) or bias.shape != (columns,):
            raise BundleError(f"{self.weights}: scale or bias does not fit the weights")
        if not (np.isfinite(scale).all() and np.isfinite(bias).all()):
            raise BundleError(
                f"{self.weights}: scale or bias has numbers that are none"
            )
        reading = open_reading(folder, self.words)
        names = tuple(labels)
        return Linear(self, weights, scale, bias, names, reading, bool(entities))


class Linear:
    """Holds the weights of a linear tier."""

    def __init__(
        self,
        spec: LinearSpec,
        weights: NDArray[np.int8],
        scale: Floats,
        bias: Floats,
        labels: tuple[str, ...],
        reading: Reading | None,
        extracts: bool,  # noqa: FBT001
    ) -> None:
        """Take what `LinearSpec.load` opened."""
        self._spec = spec
        self._weights = weights
        self._scale = scale
        self._bias = bias
        self._labels = labels
        self._reading = reading
        self._extracts = extracts

    def predict(
        self, texts: Sequence[str], earlier: Sequence[RawPrediction] = ()
    ) -> list[RawPrediction]:
        """Return the raw prediction for each text.

        `label_evidence` is the log-odds of the best label and their margin to those of
        the second; `entities_evidence` is the logit that the text has no entities.
        `opinion` is the log-probability of each label.
        """
        del earlier  # a linear tier is the first
        read = self._reading.view if self._reading else View
        return [self._guess(self._logits(read(text).text)) for text in texts]

    def _logits(self, text: str) -> Floats:
        rows = features(text, self._spec.bits)
        if not rows:
            return self._bias
        total = self._weights[rows].sum(axis=0, dtype=np.int32)
        logits: Floats = total * (self._scale / np.float32(len(rows) ** 0.5))
        return logits + self._bias

    def _guess(self, logits: Floats) -> RawPrediction:
        labels = len(self._labels)
        label: str | None = None
        evidence: tuple[float, ...] = ()
        opinion: tuple[float, ...] = ()
        outside: float | None = None
        forms: tuple[float, ...] = ()
        if self._spec.forms:
            forms = softmax(logits[-len(Form) :])
            logits = logits[: -len(Form)]
        if labels:
            own = logits[: labels + self._spec.outside]
            logs = own - own.max()
            logs -= np.log(np.exp(logs).sum())
            share = np.exp(logs)
            opinion = tuple(logs[:labels].tolist())
            label = self._labels[int(share[:labels].argmax())]
            best, second = top_two(share[:labels])
            evidence = (log_odds(best), log_odds(best) - log_odds(second))
            outside = float(share[labels]) if self._spec.outside else None
        nothing = (float(logits[-1]),) if self._extracts else ()
        return RawPrediction(label, (), evidence, nothing, outside, opinion, forms)


def features(text: str, bits: int) -> list[int]:
    """Return the rows of a text's features in a table of 2**bits rows, each once.

    The order of the rows has no meaning.
    """
    mask = (1 << bits) - 1
    crc = zlib.crc32
    rows = set()
    before = "^"
    for whole in (*WORD.findall(text.lower()), "$"):
        word = whole[:LONGEST_WORD]
        rows.add(crc(word.encode()) & mask)
        rows.add(crc(f"{before} {word}".encode()) & mask)
        before = word
        if word == "$":
            continue
        marked = f"<{word}>".encode()
        for size in range(SHORTEST, LONGEST + 1):
            for start in range(len(marked) - size + 1):
                rows.add(crc(marked[start : start + size], size) & mask)
    return list(rows)


def softmax(logits: Floats) -> tuple[float, ...]:
    """Return the probabilities, as numbers of Python."""
    powers = np.exp(logits - logits.max())
    shares: list[float] = (powers / powers.sum()).tolist()
    return tuple(shares)


def top_two(shares: Floats) -> tuple[float, float]:
    """Return the largest and the second largest share; 0 if there is no second."""
    if len(shares) == 1:
        return float(shares[0]), 0.0
    second, best = np.partition(shares, -2)[-2:]
    return float(best), float(second)
