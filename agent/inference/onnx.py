"""Open tokenizers, graphs and trunks.

A trunk is an encoder that several bundles share. Their own graphs are heads, which read
its hidden states. A process holds a trunk once, however many bundles are open.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

from agent.core.errors import BundleError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

# onnxruntime's Linux wheels report usage unless this is set before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

HIDDEN = "hidden"  # output of a trunk, input of heads: float, batch x tokens x width
MASK = "attention_mask"
FORMS = "form_logits"  # of a graph that was taught forms: float, batch x forms


class Session(Protocol):
    """A graph that can be run: an encoder, or heads on a trunk."""

    def get_outputs(self) -> Sequence[Any]:
        """Return the outputs, each with `name` and `shape`."""

    def run(self, names: Sequence[str], feed: dict[str, Any]) -> list[Any]:
        """Return the outputs with these names; `feed` has the inputs by name."""


class Trunk:
    """Owns the session and the tokenizers that bundles share; for any thread."""

    def __init__(self, graph: Path, tokenizer: Path, threads: int) -> None:
        """Open the graph; `threads` is the number of threads of one inference."""
        self.session = open_session(graph, threads)
        self._tokenizer = tokenizer
        self._windows: dict[tuple[int, int], Tokenizer] = {}

    @property
    def width(self) -> int:
        """The number of hidden numbers of a token."""
        widths = {
            output.name: output.shape[-1] for output in self.session.get_outputs()
        }
        width: int = widths[HIDDEN]
        return width

    def tokenizer(self, max_tokens: int, stride: int) -> "Tokenizer":
        """Return the tokenizer with windows of `max_tokens` that share `stride`."""
        window = (max_tokens, stride)
        if window not in self._windows:
            self._windows[window] = open_tokenizer(self._tokenizer, *window)
        return self._windows[window]


class Heads:
    """Owns the graph of a bundle's heads; runs like a whole encoder."""

    def __init__(self, trunk: Trunk, session: "InferenceSession") -> None:
        """Take both; raises BundleError if their widths differ."""
        self.trunk = trunk
        self._session = session
        widths = {given.name: given.shape[-1] for given in session.get_inputs()}
        if widths.get(HIDDEN) != trunk.width:
            raise BundleError(
                f"the heads take {widths.get(HIDDEN)} numbers a token, the trunk gives "
                f"{trunk.width}"
            )

    def get_outputs(self) -> Sequence[Any]:
        """Return the outputs of the heads."""
        outputs: list[Any] = self._session.get_outputs()
        beside = self.trunk.session.get_outputs()
        return [*outputs, *(output for output in beside if output.name == FORMS)]

    def run(self, names: Sequence[str], feed: dict[str, Any]) -> list[Any]:
        """Run the trunk, then the heads; return the outputs with these names."""
        own = [name for name in names if name != FORMS]
        asked = [HIDDEN, *(name for name in names if name == FORMS)]
        hidden, *forms = self.trunk.session.run(asked, feed)
        outputs = self._session.run(own, {HIDDEN: hidden, MASK: feed[MASK]})
        by_name = dict(zip(own, outputs, strict=True)) | dict.fromkeys(
            asked[1:], *forms
        )
        return [by_name[name] for name in names]


_trunks: WeakValueDictionary[tuple[object, ...], Trunk] = WeakValueDictionary()
_opening = Lock()  # two threads must not open the same trunk twice


def open_trunk(graph: Path, tokenizer: Path, threads: int) -> Trunk:
    """Return the trunk of these files: the same object while anybody holds it.

    If the files were replaced meanwhile, it is another trunk. Raises what the libraries
    raise on files that they cannot read.
    """
    files = (graph, graph.with_name(f"{graph.name}.data"), tokenizer)
    key = (threads, *(part for file in files for part in _identity(file)))
    with _opening:
        trunk = _trunks.get(key)
        if trunk is None:
            trunk = _trunks[key] = Trunk(graph, tokenizer, threads)
        return trunk


def _identity(path: Path) -> tuple[object, ...]:
    try:
        status = path.stat()
    except FileNotFoundError:  # small weights lie inside the graph
        return (path.name,)
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def open_tokenizer(path: Path, max_tokens: int, stride: int) -> "Tokenizer":
    """Open a tokenizer that cuts texts into windows of at most `max_tokens` tokens.

    Neighbouring windows share `stride` tokens.
    """
    from tokenizers import Tokenizer  # noqa: PLC0415  18 MB that `check --schema` saves

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens, stride=stride)
    return tokenizer


def open_session(path: Path, threads: int) -> "InferenceSession":
    """Open an ONNX session for a daemon that is idle most of the time.

    `threads` is the number of threads of one inference. The options were measured
    (`bench/options.py`, docs/decisions/0004): spinning uses a core while it waits;
    arena and memory patterns keep the memory that the longest text needed.
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
