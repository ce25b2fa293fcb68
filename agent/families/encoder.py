"""The `encoder` family: an int8 transformer for labels and entities in one pass.

The bundle's ONNX graph takes `input_ids` and `attention_mask` (int64, batch x tokens)
and gives `label_logits` (batch x labels) and/or `tag_logits` (batch x tokens x tags).
A word is judged by its first sub-token.
"""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.errors import BundleError
from agent.families.bio import best_tags, runs
from agent.types import Entity, Prediction, Tier

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

# onnxruntime's Linux wheels report usage unless this is set before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

Floats = NDArray[np.float32]
SPECIAL_TOKENS = 2  # one in front, one behind
TOKENS_A_RUN = 1024  # bounds the memory of one inference, whatever waits


class EncoderSpec(BaseModel):
    """An encoder tier in a bundle's manifest; file names are inside the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["encoder"]
    model: str
    tokenizer: str
    max_tokens: int = Field(ge=8, le=512)
    """The window of the model in tokens, both special tokens included."""
    stride: int = Field(ge=0)
    """How many tokens two neighbouring windows of a long text share."""
    label_temperature: float = Field(gt=0)
    entity_temperature: float = Field(gt=0)

    @model_validator(mode="after")
    def _windows_move_on(self) -> Self:
        if self.stride >= self.max_tokens - SPECIAL_TOKENS:
            raise ValueError("stride: a window must hold more than it shares")
        return self

    def load(
        self, folder: Path, labels: list[str], entities: list[str], threads: int
    ) -> "Encoder":
        """Open tokenizer and session; `threads` is for one inference.

        Raises BundleError where the graph does not fit the labels, and whatever the
        libraries raise on files they cannot read.
        """
        tokenizer = _open_tokenizer(folder / self.tokenizer, self)
        session = _open_session(folder / self.model, threads)
        _check_widths(session, labels, entities)
        return Encoder(self, tokenizer, session, tuple(labels), tuple(entities))


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of a text that fits the model, and what the model said of it.

    `words` maps a word of the whole text to its first token in this window.
    """

    text: int  # index of the text in the batch
    ids: list[int]
    words: dict[int, int]
    spans: dict[int, tuple[int, int]]  # word -> character offsets in the text


class Encoder:
    """Owns the session and the tokenizer. One thread at a time may use it."""

    def __init__(
        self,
        spec: EncoderSpec,
        tokenizer: "Tokenizer",
        session: "InferenceSession",
        labels: tuple[str, ...],
        entities: tuple[str, ...],
    ) -> None:
        """Take what `EncoderSpec.load` opened."""
        self._spec = spec
        self._tokenizer = tokenizer
        self._session = session
        self._labels = labels
        self._entities = entities
        self._outputs = [output.name for output in session.get_outputs()]

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Return the prediction of each text, whatever its length.

        A text longer than the window is read in overlapping windows: label
        probabilities are averaged, each word is judged where it has most context.
        Raises ValueError if the model answers with numbers that are none.
        """
        windows = [w for i, text in enumerate(texts) for w in self._windows(i, text)]
        outputs: list[dict[str, Floats]] = [{} for _ in windows]
        for group in _by_length([len(window.ids) for window in windows]):
            answers = self._run([windows[i] for i in group])
            for i, answer in zip(group, answers, strict=True):
                outputs[i] = answer
        read: list[list[tuple[Window, dict[str, Floats]]]] = [[] for _ in texts]
        for window, output in zip(windows, outputs, strict=True):
            read[window.text].append((window, output))
        return [
            self._prediction(text, own) for text, own in zip(texts, read, strict=True)
        ]

    def _windows(self, index: int, text: str) -> Iterator[Window]:
        encoding = self._tokenizer.encode(text)
        for part in (encoding, *encoding.overflowing):
            first: dict[int, int] = {}
            spans: dict[int, tuple[int, int]] = {}
            for token, word in enumerate(part.word_ids):
                if word is None:
                    continue
                start, end = part.offsets[token]
                first.setdefault(word, token)
                spans[word] = (spans[word][0] if word in spans else start, end)
            yield Window(index, part.ids, first, spans)

    def _run(self, windows: Sequence[Window]) -> list[dict[str, Floats]]:
        width = max(len(window.ids) for window in windows)
        ids = np.zeros((len(windows), width), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, window in enumerate(windows):
            ids[row, : len(window.ids)] = window.ids
            mask[row, : len(window.ids)] = 1
        feed = {"input_ids": ids, "attention_mask": mask}
        found = dict(
            zip(self._outputs, self._session.run(self._outputs, feed), strict=True)
        )
        if not all(np.isfinite(array).all() for array in found.values()):
            raise ValueError("the model answered with numbers that are none")
        return [
            {name: array[row] for name, array in found.items()}
            for row in range(len(windows))
        ]

    def _prediction(
        self, text: str, windows: Sequence[tuple[Window, dict[str, Floats]]]
    ) -> Prediction:
        label, score = None, None
        if self._labels:
            logits: Floats = np.stack([out["label_logits"] for _, out in windows])
            log_probs = _log_softmax(logits / np.float32(self._spec.label_temperature))
            share = np.exp(log_probs).mean(axis=0)
            best = int(share.argmax())
            label, score = self._labels[best], float(share[best])
        entities = self._read_entities(text, windows) if self._entities else ()
        return Prediction(Tier.ENCODER, label, score, entities)

    def _read_entities(
        self, text: str, windows: Sequence[tuple[Window, dict[str, Floats]]]
    ) -> tuple[Entity, ...]:
        """Decode one tag sequence over all words of the text, in their order."""
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
            return ()
        words = sorted(chosen)
        logits: Floats = np.stack(
            [windows[chosen[w][1]][1]["tag_logits"][chosen[w][2]] for w in words]
        )
        log_probs = _log_softmax(logits / np.float32(self._spec.entity_temperature))
        tags = best_tags(log_probs)
        sure = np.exp(log_probs[np.arange(len(words)), tags])
        found = []
        for entity, first, last in runs(tags):
            start = spans[words[first]][0]
            end = _with_marks(text, spans[words[last]][1])
            score = float(sure[first : last + 1].min())
            label = self._entities[entity]
            found.append(Entity(label, text[start:end], start, end, score))
        return tuple(found)


def _by_length(lengths: Sequence[int], waste: float = 1.25) -> Iterator[list[int]]:
    """Group indices so that padding to the longest costs at most `waste` times.

    A group holds TOKENS_A_RUN tokens at most, padding included.
    """
    group: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        tokens += lengths[index]
        padded = (len(group) + 1) * lengths[index]
        if group and (padded > waste * tokens or padded > TOKENS_A_RUN):
            yield group
            group, tokens = [], lengths[index]
        group.append(index)
    if group:
        yield group


def _with_marks(text: str, end: int) -> int:
    """Return the end of a word whose last letter carries combining marks.

    Tokenizers that strip accents leave them out of their offsets.
    """
    while end < len(text) and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return end


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    total: Floats = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    result: Floats = shifted - total
    return result


def _check_widths(
    session: "InferenceSession", labels: list[str], entities: list[str]
) -> None:
    """Compare the graph's outputs with the names they stand for."""
    widths = {output.name: output.shape[-1] for output in session.get_outputs()}
    wanted = {}
    if labels:
        wanted["label_logits"] = len(labels)
    if entities:
        wanted["tag_logits"] = 1 + 2 * len(entities)
    for name, width in wanted.items():
        if widths.get(name) != width:
            raise BundleError(
                f"the manifest needs {width} {name}, the model gives {widths.get(name)}"
            )


def _open_tokenizer(path: Path, spec: EncoderSpec) -> "Tokenizer":
    from tokenizers import Tokenizer  # noqa: PLC0415  18 MB that `check --schema` saves

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(spec.max_tokens, stride=spec.stride)
    return tokenizer


def _open_session(path: Path, threads: int) -> "InferenceSession":
    """Open an ONNX session for a daemon that is idle most of the time.

    Options by measurement (`slm-agent bench`, docs/decisions/0004): spinning burns a
    core while it waits, the arena and memory patterns keep the peak of the longest
    text for ever.
    """
    import onnxruntime  # noqa: PLC0415  47 MB that config and demo never need

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
