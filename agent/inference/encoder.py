"""The `encoder` family: an int8 transformer for labels and entities in one pass.

The bundle's ONNX graph takes `input_ids` and `attention_mask` (int64, batch x tokens)
and gives `label_logits` (batch x labels, and one more for what is outside of them)
and/or `tag_logits` (batch x tokens x (levels x tags)). A word is judged by its first
sub-token. Entities inside entities are tags of the next level.

Several bundles may share an encoder, their trunk. Then the bundle's graph is only its
heads, which take `hidden` (float, batch x tokens x width) instead of `input_ids`.
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from agent.core.errors import BundleError
from agent.core.types import Entity, Form, RawPrediction, Tier
from agent.inference.bio import Following, best_tags, following, runs
from agent.inference.calibration import log_odds
from agent.inference.folding import View, folded
from agent.inference.lexicon import read_lexicon
from agent.inference.linear import softmax, top_two
from agent.inference.onnx import (
    FORMS,
    Heads,
    Session,
    open_session,
    open_tokenizer,
    open_trunk,
)
from agent.inference.reading import open_reading

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Floats = NDArray[np.float32]
SPECIAL_TOKENS = 2  # one in front, one behind
TINY = 1e-30  # a probability whose logarithm is finite


class EncoderSpec(BaseModel):
    """An encoder tier in a bundle's manifest; file names are inside the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["encoder"]
    model: str
    tokenizer: str
    trunk: str | None = Field(default=None, pattern=r"^\.\./[^/]+/[^/]+$")
    """The graph in a folder beside the bundle's on which `model`, heads, stands."""
    max_tokens: int = Field(ge=8, le=512)
    """The window of the model in tokens, both special tokens included."""
    stride: int = Field(ge=0)
    """How many tokens two neighbouring windows of a long text share."""
    outside: bool = False
    """Whether the logit after the labels is for texts that are none of them."""
    forms: bool = False
    """Whether the graph, or the trunk's, tells forms of utterances: `form_logits`."""
    levels: int = Field(default=1, ge=1, le=3)
    """How deep entities may lie in one another."""
    prior_weight: float = Field(
        default=0.0, ge=0, le=1, validation_alias=AliasChoices("prior_weight", "heeds")
    )
    """Weight of the tier before in the label: a product of experts, in which its
    log-probabilities count so much and the encoder's own count 1. Manifests up to
    0.2 say `heeds`."""
    transitions: str | None = None
    """An .npy, levels x (tags + 1) x (tags + 1): which tags follow which (bio.py)."""

    folded: bool = False
    """Whether digits, hyphens and spaces are read as the plain ones (folding.py)."""
    words: str | None = None
    """Words that were taught: texts are read by them (reading.py)."""
    lexicon: str | None = None
    """A table of abbreviations: texts are read with them written out (lexicon.py)."""

    @model_validator(mode="after")
    def _windows_move_on(self) -> Self:
        if self.stride >= self.max_tokens - SPECIAL_TOKENS:
            raise ValueError("stride: a window must hold more than it shares")
        return self

    @property
    def by(self) -> Tier:
        """Who answers."""
        return Tier.ENCODER

    @property
    def needed(self) -> tuple[str, ...]:
        """The files without which the tier cannot be loaded."""
        beside = (self.trunk, self.transitions, self.words, self.lexicon)
        return (self.model, self.tokenizer, *(name for name in beside if name))

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the bundle that make this tier; weights may lie beside it."""
        graphs = (self.model, self.trunk) if self.trunk else (self.model,)
        return (*self.needed, *(f"{graph}.data" for graph in graphs))

    def load(
        self, folder: Path, labels: list[str], entities: list[str], threads: int
    ) -> "Encoder":
        """Open tokenizer and session; `threads` is for one inference.

        Raises BundleError where the graph does not fit the labels, and whatever the
        libraries raise on files they cannot read.
        """
        tokenizer, session = self._open(folder, threads)
        _check_widths(session, self, labels, entities)
        transitions = _open_transitions(folder, self, entities)
        read = self._view_of(folder)
        names = tuple(labels), tuple(entities)
        return Encoder(self, tokenizer, session, *names, transitions, read)

    def _view_of(self, folder: Path) -> Callable[[str], View]:
        """Return how texts are read."""
        if self.lexicon:
            return read_lexicon((folder / self.lexicon).read_text("utf-8")).expanded
        reading = open_reading(folder, self.words)
        plain = folded if self.folded else View
        return reading.view if reading else plain

    def _open(self, folder: Path, threads: int) -> tuple["Tokenizer", Session]:
        session = open_session(folder / self.model, threads)
        words = folder / self.tokenizer
        if self.trunk is None:
            return open_tokenizer(words, self.max_tokens, self.stride), session
        trunk = open_trunk(folder / self.trunk, words, threads)
        return trunk.tokenizer(self.max_tokens, self.stride), Heads(trunk, session)


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of a text that fits the model, and what the model said of it.

    `words` maps a word of the whole text to its first token in this window.
    """

    ids: list[int]
    words: dict[int, int]
    spans: dict[int, tuple[int, int]]  # word -> character offsets in the text


class Encoder:
    """Holds session and tokenizer. One thread at a time may use it."""

    def __init__(
        self,
        spec: EncoderSpec,
        tokenizer: "Tokenizer",
        session: Session,
        labels: tuple[str, ...],
        entities: tuple[str, ...],
        transitions: Sequence[Following] | None = None,
        read: Callable[[str], View] = View,
    ) -> None:
        """Take what `EncoderSpec.load` opened."""
        self._spec = spec
        self._tokenizer = tokenizer
        self._session = session
        self._labels = labels
        self._entities = entities
        self._transitions = transitions
        self._read = read
        self._outputs = [
            output.name
            for output in session.get_outputs()
            if spec.forms or output.name != FORMS
        ]

    def predict(
        self, texts: Sequence[str], earlier: Sequence[RawPrediction] = ()
    ) -> list[RawPrediction]:
        """Return the raw prediction for each text, of whatever length.

        `earlier` has those of the tier before, if there is one. A text longer than the
        window is read in overlapping windows: label probabilities are averaged, and the
        tags of a word are those of the window in which it has most context. The result
        depends on the text alone. Raises ValueError if the model gives numbers that are
        not finite.

        `label_evidence` has, in this order:

        1. the log-odds of the best label, the earlier tier's opinion weighed in;
        2. their margin to the log-odds of the second label;
        3. the energy: log-sum-exp of the labels' logits, the mean over windows;
        4. only with `outside`: (1) less the log-odds of being out of scope;
        5. only with `prior_weight`: the log-odds of the best label by this tier alone.

        `calibration.with_agreement` appends what the earlier tier says. A calibration
        has a weight for each: another order makes every calibration invalid.
        `entities_evidence` is that of `_read_entities`.
        """
        opinions = [guess.opinion for guess in earlier] or [()] * len(texts)
        return [
            self._guess(text, [(w, self._run(w)) for w in self._windows(text)], opinion)
            for text, opinion in zip(texts, opinions, strict=True)
        ]

    def _windows(self, text: str) -> Iterator[Window]:
        view = self._read(text)
        encoding = self._tokenizer.encode(view.text)
        for part in (encoding, *encoding.overflowing):
            first: dict[int, int] = {}
            spans: dict[int, tuple[int, int]] = {}
            for token, word in enumerate(part.word_ids):
                if word is None:
                    continue
                start, end = view.span(*part.offsets[token])
                first.setdefault(word, token)
                spans[word] = (spans[word][0] if word in spans else start, end)
            yield Window(part.ids, first, spans)

    def _run(self, window: Window) -> dict[str, Floats]:
        """Run the model on one window; in a batch int8 answers depend on the others."""
        ids = np.asarray([window.ids], dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        outputs = self._session.run(self._outputs, feed)
        if not all(np.isfinite(array).all() for array in outputs):
            raise ValueError("the model answered with numbers that are none")
        return {
            name: array[0] for name, array in zip(self._outputs, outputs, strict=True)
        }

    def _guess(
        self,
        text: str,
        windows: Sequence[tuple[Window, dict[str, Floats]]],
        opinion: Sequence[float],
    ) -> RawPrediction:
        label: str | None = None
        label_evidence: tuple[float, ...] = ()
        outside: float | None = None
        if self._labels:
            logits: Floats = np.array([out["label_logits"] for _, out in windows])
            sums = _log_sum(logits)
            share = _mean(np.exp(logits - sums[:, np.newaxis]))
            known = len(self._labels)
            own = share[:known]
            mixed = own
            if opinion and self._spec.prior_weight:
                mixed = _with_prior(own, opinion, self._spec.prior_weight)
            index = int(mixed.argmax())
            label = self._labels[index]
            best, second = top_two(mixed)
            odds = log_odds(best)
            energies = _log_sum(logits[:, :known]) if len(share) > known else sums
            label_evidence = (odds, odds - log_odds(second), float(_mean(energies)))
            if self._spec.outside:
                outside = float(share[known])
                label_evidence = (*label_evidence, odds - log_odds(outside))
            if self._spec.prior_weight:  # its own opinion on this label
                label_evidence = (*label_evidence, log_odds(float(own[index])))
        entities: tuple[Entity, ...] = ()
        entities_evidence: tuple[float, ...] = ()
        if self._entities:
            entities, entities_evidence = self._read_entities(text, windows)
        forms: tuple[float, ...] = ()
        if self._spec.forms:
            forms = _forms([out[FORMS] for _, out in windows])
        return RawPrediction(
            label, entities, label_evidence, entities_evidence, outside, forms=forms
        )

    def _read_entities(
        self, text: str, windows: Sequence[tuple[Window, dict[str, Floats]]]
    ) -> tuple[tuple[Entity, ...], tuple[float, ...]]:
        """Decode one tag sequence a level over all words of the text, in their order.

        Returns the entities and their evidence: the log-odds of the least sure word,
        those of the whole sequence, and the number of entities.
        """
        chosen: dict[int, tuple[int, int, int]] = {}  # word -> (context, window, token)
        spans: dict[int, tuple[int, int]] = {}  # from the first window to the last
        for number, (window, _) in enumerate(windows):
            for word, token in window.words.items():
                start, end = window.spans[word]
                spans[word] = (spans[word][0] if word in spans else start, end)
                context = min(token, len(window.ids) - 1 - token)
                if word not in chosen or context > chosen[word][0]:
                    chosen[word] = (context, number, token)
        if not chosen:
            return (), (log_odds(1.0), log_odds(1.0), 0.0)
        words = sorted(chosen)
        logits: Floats = np.array(
            [windows[chosen[w][1]][1]["tag_logits"][chosen[w][2]] for w in words]
        )
        entities: list[Entity] = []
        least, whole = 1.0, 0.0
        for level, log_probs in enumerate(_levels(logits, self._spec.levels)):
            follow = None if self._transitions is None else self._transitions[level]
            tags = best_tags(log_probs, follow)
            sure = np.exp(log_probs[np.arange(len(words)), tags])
            least = min(least, float(sure.min()))
            whole += float(np.log(np.maximum(sure, TINY)).sum())
            for entity, first, last in runs(tags):
                start = spans[words[first]][0]
                end = _with_marks(text, spans[words[last]][1])
                score = float(sure[first : last + 1].min())
                label = self._entities[entity]
                entities.append(Entity(label, text[start:end], start, end, score))
        entities.sort(key=lambda entity: (entity.start, -entity.end))
        evidence = (
            log_odds(least),
            log_odds(float(np.exp(whole))),
            float(len(entities)),
        )
        return tuple(_once(entities)), evidence


def _forms(windows: Sequence[Floats]) -> tuple[float, ...]:
    """Return the forms of the window that is least a plain request."""
    first = [*Form].index(Form.REQUEST)
    return min((softmax(logits) for logits in windows), key=lambda forms: forms[first])


def _levels(logits: Floats, levels: int) -> list[Floats]:
    """Return the log-probabilities of each level: words x tags."""
    by_level = logits.reshape(len(logits), levels, -1)
    return [_log_softmax(by_level[:, level]) for level in range(levels)]


def _once(entities: Sequence[Entity]) -> Iterator[Entity]:
    """Yield entities without those that two levels found both."""
    seen: set[tuple[int, int, str]] = set()
    for entity in entities:
        place = (entity.start, entity.end, entity.label)
        if place not in seen:
            seen.add(place)
            yield entity


def _with_marks(text: str, end: int) -> int:
    """Return the end of a word whose last letter carries combining marks.

    Tokenizers that strip accents leave them out of their offsets.
    """
    while end < len(text) and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return end


def _with_prior(share: Floats, opinion: Sequence[float], weight: float) -> Floats:
    """Return probabilities, in all as many, with another opinion weighed in."""
    mixed = np.log(np.maximum(share, TINY)) + np.float32(weight) * np.asarray(opinion)
    weighed = np.exp(_log_softmax(mixed)) * share.sum()
    result: Floats = weighed.astype(np.float32)
    return result


def _mean(windows: Floats) -> Floats:
    """Return the mean over windows, of which there is mostly one."""
    result: Floats = windows[0] if len(windows) == 1 else windows.mean(axis=0)
    return result


def _log_softmax(logits: Floats) -> Floats:
    result: Floats = logits - _log_sum(logits)[..., np.newaxis]
    return result


def _log_sum(logits: Floats) -> Floats:
    peak: Floats = logits.max(axis=-1)
    result: Floats = peak + np.log(np.exp(logits - peak[..., np.newaxis]).sum(axis=-1))
    return result


def runtime() -> str:
    """Return the library that computes, as far as its version may change answers."""
    major, minor, *_ = version("onnxruntime").split(".")
    return f"onnxruntime {major}.{minor}"


def _check_widths(
    session: Session,
    spec: EncoderSpec,
    labels: list[str],
    entities: list[str],
) -> None:
    """Compare the graph's outputs with the names they stand for."""
    widths = {output.name: output.shape[-1] for output in session.get_outputs()}
    wanted = {}
    if labels:
        wanted["label_logits"] = len(labels) + spec.outside
    if spec.forms:
        wanted[FORMS] = len(Form)
    if entities:
        wanted["tag_logits"] = spec.levels * (1 + 2 * len(entities))
    for name, width in wanted.items():
        if widths.get(name) != width:
            raise BundleError(
                f"the manifest needs {width} {name}, the model gives {widths.get(name)}"
            )


def _open_transitions(
    folder: Path, spec: EncoderSpec, entities: list[str]
) -> list[Following] | None:
    if spec.transitions is None:
        return None
    scores: Floats = np.load(folder / spec.transitions, allow_pickle=False)
    tags = 2 + 2 * len(entities)
    if scores.shape != (spec.levels, tags, tags) or not np.isfinite(scores).all():
        raise BundleError(
            f"{spec.transitions}: the manifest needs {spec.levels} x {tags} x {tags} "
            f"finite numbers, the file has {scores.shape}"
        )
    return [following(level) for level in scores.astype(np.float32)]
