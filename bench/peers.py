"""Compare `home` with the same encoder in the Hugging Face pipeline.

The shipped encoder is turned back into a Hugging Face folder (fp32 weights, config,
tokenizer) and asked by `transformers.pipeline("text-classification")`, as people do
who fine-tune such a model. Each row is a process of its own, started anew in each
round, pinned to the same core, one thread, one text at a time. The run fails where
the peer's labels or logits are not our encoder's: it would be another model.

The peer only classifies; both rows of ours find the entities in the same call.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROWS = {
    "torch": "Hugging Face pipeline, torch fp32",
    "torch-int8": "Hugging Face pipeline, torch int8",
    "encoder": "slm-agent, its encoder alone",
    "cascade": "slm-agent, `home` as shipped",
}
AGREEMENT = 0.98  # of labels, below which the peer is another model
SUMS = {"Add", "Sum"}
PLACES = ".places"
OUT_OF_SCOPE = "out_of_scope"  # what the peer calls an output beyond the labels
LOGITS_OFF = 0.15  # the same for logits, where int8 activations alone cost about 0.06
HEADS = 12  # MiniLM's; no weight has this dimension
WARM_UP = 20
LIBRARIES = ("onnxruntime", "tokenizers", "torch", "transformers")
EXAMPLES = """\
examples:
  python bench/peers.py                                  the table, for eyes
  python bench/peers.py --markdown                       the table of the README
  python bench/peers.py --out bench/results/peers-$(uname -m).json
  python bench/peers.py --json --rounds 3 | jq .rows.cascade

needs: pip install -e '.[workshop]' (torch and transformers)
exit status: 0 measured; 1 the peer is not our encoder, or a row failed;
2 something is not installed or a value is wrong
"""

Ask = Callable[[str], Any]
Ranked = list[str | None]  # the best label, the peer's second best behind it


# --- the same encoder as a Hugging Face folder ---------------------------------------


class Weights(NamedTuple):
    """What the bundle's graph holds of the classifier, in fp32 and by torch names."""

    tensors: dict[str, Any]
    epsilon: float


def read_weights(graphs: Sequence[Path]) -> Weights:
    """Read encoder and label head from a bundle's graphs, dequantised.

    Those are the trunk and its heads. The exporter keeps torch's names but for the
    matrices, which it transposes and numbers: such a one is called after the bias that
    is added to its product; the keys', which has none (workshop/export/lean.py), after
    the query's before it. What kind of token it is stands in the table of places.
    """
    import onnx

    from agent.workshop.export.portable import EPSILON

    found = {}
    head = name = ""
    for path in graphs:
        graph = Graph(onnx.load(path).graph)
        found |= {
            name: array
            for name, array in graph.held.items()
            if name.endswith((".weight", ".bias", PLACES)) or name.startswith(EPSILON)
        }
        for node in graph.nodes:
            if node.op_type == "DequantizeLinear":
                name, array = graph.embeddings(node)
                found[name] = array
            elif node.op_type in {"MatMulInteger", "MatMul"} and graph.holds(node):
                bias, array, result = graph.matrix(node)
                name = bias or _after(name)
                found[f"{name}.weight"] = array
                head = name if result == "label_logits" else head
    first = "embeddings.LayerNorm.weight"
    prefix = next(n for n in found if n.endswith(first)).removesuffix(first)
    tensors = {
        f"bert.{name.removeprefix(prefix)}": array
        for name, array in found.items()
        if name.startswith(prefix)
    }
    for part in ("weight", "bias"):
        tensors[f"classifier.{part}"] = found[f"{head}.{part}"]
    [places] = (array for name, array in found.items() if name.endswith(PLACES))
    tensors["bert.embeddings.position_embeddings.weight"] = places
    tensors["bert.embeddings.token_type_embeddings.weight"] = 0 * places[:1]
    for name, array in tuple(tensors.items()):
        if name.endswith(".key.weight"):
            tensors[f"{name.removesuffix('weight')}bias"] = 0 * array[0]
    [epsilon] = (float(found[name]) for name in found if name.startswith(EPSILON))
    return Weights(tensors, epsilon)


def _after(name: str) -> str:
    """Return what comes after the query, the only one that has no name of its own."""
    layer, query, rest = name.rpartition(".query")
    if rest or not query:
        raise RuntimeError(f"a product without a bias follows {name!r}")
    return f"{layer}.key"


class Graph:
    """An ONNX graph as onnxruntime's dynamic quantisation leaves it, to walk along."""

    def __init__(self, graph: Any) -> None:
        """Note who makes and who reads each value."""
        from onnx.numpy_helper import to_array

        self.nodes = graph.node
        self.held = {tensor.name: to_array(tensor) for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)

    def holds(self, node: Any) -> bool:
        """Tell whether a product is one with a weight, not a sum."""
        from agent.workshop.export.portable import SHARES

        factor = node.input[1]
        return factor in self.held and not factor.startswith(SHARES)

    def embeddings(self, node: Any) -> tuple[str, Any]:
        """Return name and values of what a DequantizeLinear reads, behind a Gather."""
        source, scale, zero = node.input
        if source not in self.held:
            source = self.makers[source].input[0]
        whole = self.held[source].astype("float32") - self.held[zero]
        return source.removesuffix("_quantized"), whole * self.held[scale]

    def matrix(self, node: Any) -> tuple[str, Any, str]:
        """Return name and values of a product's weight, and what its sum is called.

        int8: MatMulInteger, Cast, Mul by the product of both scales, Sum with the bias.
        The name is empty where there is no bias.
        """
        weight, zero = node.input[1], [n for n in node.input[3:] if n]
        whole = self.held[weight].astype("float32") - (
            self.held[zero[0]] if zero else 0
        )
        product = node.output[0]
        while (after := self.readers[product][0]).op_type in {"Cast", "Mul"}:
            if after.op_type == "Mul":
                [scales] = (name for name in after.input if name != product)
                whole = whole * self._held_by(self.makers[scales])
            product = after.output[0]
        biases = (name for name in after.input if name in self.held)
        bias = next(biases, "") if after.op_type in SUMS else ""
        return bias.removesuffix(".bias"), whole.T, after.output[0]

    def _held_by(self, node: Any) -> Any:
        return next(self.held[name] for name in node.input if name in self.held)


@cache
def peer_classes() -> tuple[Any, Any]:
    """Return config and model of the peer, known to transformers' Auto classes."""
    import transformers
    from torch import nn
    from transformers.modeling_outputs import SequenceClassifierOutput

    class MeanPooledConfig(transformers.BertConfig):
        model_type = "mean-pooled-bert"

    class MeanPooledBert(transformers.BertPreTrainedModel):
        """BERT, the mean of its tokens, a linear layer."""

        config_class = MeanPooledConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.bert = transformers.BertModel(config, add_pooling_layer=False)
            self.classifier = nn.Linear(config.hidden_size, config.num_labels)
            self.post_init()

        def forward(self, input_ids: Any, attention_mask: Any, **_: Any) -> Any:
            hidden = self.bert(input_ids, attention_mask).last_hidden_state
            weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weight).sum(1) / weight.sum(1)
            return SequenceClassifierOutput(logits=self.classifier(pooled))

    transformers.AutoConfig.register(MeanPooledConfig.model_type, MeanPooledConfig)
    transformers.AutoModelForSequenceClassification.register(
        MeanPooledConfig, MeanPooledBert
    )
    return MeanPooledConfig, MeanPooledBert


def encoder_tier(bundle: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a bundle's manifest and the encoder among its tiers."""
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    [tier] = (t for t in manifest["tiers"] if t["family"] == "encoder")
    return manifest, tier


def build_peer(bundle: Path, folder: Path) -> None:
    """Write the bundle's classifier as a Hugging Face folder.

    Raises RuntimeError where a weight is missing, has another shape or is left over.
    """
    import torch
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    manifest, tier = encoder_tier(bundle)
    graphs = [bundle / name for name in (tier.get("trunk"), tier["model"]) if name]
    tensors, epsilon = read_weights(graphs)
    names = [*manifest["labels"], OUT_OF_SCOPE][: len(tensors["classifier.bias"])]
    words = tensors["bert.embeddings.word_embeddings.weight"]
    layers = {int(n) for name in tensors for n in re.findall(r"\.layer\.(\d+)", name)}
    config_class, model_class = peer_classes()
    config = config_class(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        num_hidden_layers=len(layers),
        num_attention_heads=HEADS,
        intermediate_size=len(tensors["bert.encoder.layer.0.intermediate.dense.bias"]),
        max_position_embeddings=len(
            tensors["bert.embeddings.position_embeddings.weight"]
        ),
        type_vocab_size=len(tensors["bert.embeddings.token_type_embeddings.weight"]),
        layer_norm_eps=epsilon,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    model = model_class(config)
    model.load_state_dict({n: torch.tensor(a) for n, a in tensors.items()})
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_file=str(bundle / tier["tokenizer"]),
        model_max_length=config.max_position_embeddings,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="[PAD]",  # noqa: S106
        unk_token="[UNK]",  # noqa: S106
        cls_token="[CLS]",  # noqa: S106
        sep_token="[SEP]",  # noqa: S106
        mask_token="[MASK]",  # noqa: S106
    ).save_pretrained(folder)


def logits_off(bundle: Path, folder: Path, texts: Sequence[str]) -> float:
    """Return how far the peer's logits are from our graph's, relative to their size.

    Labels alone would hardly tell: with half the heads 98 % of them stay the same.
    """
    import numpy as np
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from agent.inference.encoder import EncoderSpec

    peer_classes()
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    manifest, tier = encoder_tier(bundle)
    spec = EncoderSpec.model_validate(tier)
    encoder = spec.load(bundle, manifest["labels"], manifest["entities"], 1)
    session = encoder._session  # noqa: SLF001  its graphs, as they ship
    ours, theirs = [], []
    for text in texts:
        feed = dict(tokenizer(text, return_tensors="np"))
        ours.append(session.run(["label_logits"], feed)[0][0])
        with torch.no_grad():
            tensors = {name: torch.tensor(array) for name, array in feed.items()}
            theirs.append(model(**tensors).logits[0].numpy())
    off = np.linalg.norm(np.subtract(ours, theirs)) / np.linalg.norm(ours)
    return float(off)


# --- the rows: each opens what it asks, and imports no more than it needs -------------


def open_peer(folder: Path, *, int8: bool = False) -> tuple[Ask, Callable[..., Ranked]]:
    """Return the pipeline, and how to get its two best labels."""
    import torch
    from transformers import pipeline

    torch.set_num_threads(1)
    peer_classes()
    classify = pipeline("text-classification", model=str(folder), device="cpu")
    if int8:
        if torch.backends.quantized.engine == "none":
            torch.backends.quantized.engine = "qnnpack"
        with warnings.catch_warnings(action="ignore"):  # it is deprecated, and in use
            classify.model = torch.quantization.quantize_dynamic(
                classify.model, {torch.nn.Linear}, dtype=torch.qint8
            )

    def ranked(text: str) -> Ranked:
        return [answer["label"] for answer in classify(text, top_k=2)]

    return classify, ranked


def open_encoder(bundle: Path) -> tuple[Ask, Callable[..., Ranked]]:
    """Return our encoder tier, without the rest of the cascade."""
    from agent.inference.encoder import EncoderSpec

    manifest, tier = encoder_tier(bundle)
    spec = EncoderSpec.model_validate(tier)
    encoder = spec.load(bundle, manifest["labels"], manifest["entities"], 1)

    def ask(text: str) -> Any:
        return encoder.predict([text])[0]

    return ask, lambda text: [ask(text).label]


def open_cascade() -> tuple[Ask, Callable[..., Ranked]]:
    """Return what `slm-agent eval home` asks."""
    from agent.config.load import load
    from agent.evaluation.evaluate import answer
    from agent.inference.pipeline import open_pipelines

    [pipeline] = open_pipelines(load(None, enable=("home",)))

    def ranked(text: str) -> Ranked:
        best = answer(pipeline, text).prediction
        return [None if best is None else best.label]

    return lambda text: answer(pipeline, text), ranked


def work(row: str, bundle: Path, folder: Path, passes: int) -> dict[str, Any]:
    """Be one row for one round: open, answer, time, and tell."""
    texts = json.loads((folder / "texts.json").read_text("utf-8"))
    if row.startswith("torch"):
        ask, ranked = open_peer(folder, int8=row == "torch-int8")
    elif row == "encoder":
        ask, ranked = open_encoder(bundle)
    else:
        ask, ranked = open_cascade()
    ask(texts[0])
    answered = time.monotonic()
    for text in texts[:WARM_UP]:
        ask(text)
    times = []
    cpu = time.process_time()
    for text in texts * passes:
        began = time.perf_counter()
        ask(text)
        times.append(time.perf_counter() - began)
    cpu = time.process_time() - cpu
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return {
        "answered": answered,
        "texts_per_s": len(times) / sum(times),
        "ms_p50": median(times) * 1000,
        "cpu_ms": cpu / len(times) * 1000,
        "rss_mb": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "ranked": [ranked(text) for text in texts],
    }


# --- the rounds and what they come to ------------------------------------------------


class RowError(Exception):
    """A row's process failed; says how."""


def play(row: str, bundle: Path, folder: Path, passes: int) -> dict[str, Any]:
    """Run one row for one round in a new process; raises RowError."""
    began = time.monotonic()  # one clock for all processes of a machine
    done = subprocess.run(
        [sys.executable, __file__, "--work", row, bundle, folder, str(passes)],
        capture_output=True,
        check=False,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    if done.returncode:
        raise RowError((done.stderr.strip().splitlines() or ["it was killed"])[-1])
    said = json.loads(done.stdout.splitlines()[-1])
    return {**said, "start_s": said.pop("answered") - began}


def same(ours: Ranked, peers: Ranked, labels: Sequence[str]) -> bool:
    """Tell whether a peer's answer is ours.

    Where it says out of scope we may say so, too, or name the best label that is one.
    """
    if peers[0] == OUT_OF_SCOPE and ours[0] not in labels:
        return True
    return ours[0] == next(label for label in peers if label != OUT_OF_SCOPE)


def summary(
    rounds: dict[str, list[dict[str, Any]]], labels: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return each row's medians over the rounds, and its speed as times the peer's."""
    ours = rounds["encoder"][0]["ranked"]
    rows = {}
    for row, own in rounds.items():
        times = [
            one["texts_per_s"] / peer["texts_per_s"]
            for one, peer in zip(own, rounds["torch"], strict=True)
        ]
        equal = [
            same(a, b, labels) for a, b in zip(ours, own[0]["ranked"], strict=True)
        ]
        rows[row] = {
            "what": ROWS[row],
            "texts_per_s": round(median(r["texts_per_s"] for r in own), 1),
            **{
                key: round(median(r[key] for r in own), 2)
                for key in ("ms_p50", "cpu_ms", "rss_mb", "start_s")
            },
            "times_torch": round(median(times), 2),
            "times_torch_min": round(min(times), 2),
            "times_torch_max": round(max(times), 2),
            "labels_as_encoder": round(sum(equal) / len(equal), 4),
        }
    return rows


def measure(
    rounds: int, passes: int, core: int, tick: Callable[[str], None]
) -> dict[str, Any]:
    """Play all rows in turn, round after round; `tick` hears what comes next."""
    from agent.cli.demo_session import read_messages
    from agent.config.load import load

    bundle = load(None, enable=("home",)).bundle_dir("home")
    texts = read_messages(None)
    manifest, _ = encoder_tier(bundle)
    load_before = os.getloadavg()[0]
    os.sched_setaffinity(0, {core})  # children inherit it
    played: dict[str, list[dict[str, Any]]] = {row: [] for row in ROWS}
    failed = {}
    with tempfile.TemporaryDirectory(prefix="slm-agent-peers-") as name:
        folder = Path(name)
        tick("building the Hugging Face folder")
        build_peer(bundle, folder)
        off = logits_off(bundle, folder, texts)
        (folder / "texts.json").write_text(json.dumps(texts), "utf-8")
        for number in range(rounds):
            for row in list(played):
                tick(f"round {number + 1} of {rounds}: {row}")
                try:
                    played[row].append(play(row, bundle, folder, passes))
                except RowError as error:
                    if row != "torch-int8":
                        raise RowError(f"{ROWS[row]}: {error}") from None
                    failed[row] = str(error)  # torch is about to drop it
                    del played[row]
    rows = summary(played, manifest["labels"])
    return {
        "machine": machine() | {"core": core, "load_before": round(load_before, 2)},
        "bundle": f"{manifest['name']}@{manifest['version']}",
        "texts": len(texts),
        "passes": passes,
        "rounds": rounds,
        "same_encoder": rows["torch"]["labels_as_encoder"] >= AGREEMENT
        and off <= LOGITS_OFF,
        "logits_off": round(off, 4),
        "rows": rows,
        "failed": failed,
    }


def machine() -> dict[str, Any]:
    """Say where this was measured."""
    cpuinfo = board = ""
    with contextlib.suppress(OSError):
        cpuinfo = Path("/proc/cpuinfo").read_text("utf-8")
    with contextlib.suppress(OSError):  # boards such as the Pi have a name of their own
        board = Path("/proc/device-tree/model").read_text("utf-8").rstrip("\0\n")
    model = re.search(r"^(?:model name|Model)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return {
        "name": board or platform.node(),
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "arch": platform.machine(),
        "python": platform.python_version(),
        **{library: importlib.metadata.version(library) for library in LIBRARIES},
    }


# --- for people -----------------------------------------------------------------------

HEADINGS = ("", "texts/s", "ms p50", "times", "in the rounds", "MB", "start s", "same")


def cells(figures: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table, under HEADINGS."""
    for row in figures["rows"].values():
        yield (
            row["what"],
            f"{row['texts_per_s']:.0f}",
            f"{row['ms_p50']:.2f}",
            f"{row['times_torch']:.1f}",
            f"{row['times_torch_min']:.1f} to {row['times_torch_max']:.1f}",
            f"{row['rss_mb']:.0f}",
            f"{row['start_s']:.1f}",
            f"{row['labels_as_encoder']:.1%}",
        )


def markdown(figures: dict[str, Any]) -> str:
    """Return the table of the README."""
    lines = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1)), *cells(figures)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{claim(figures)}"


def claim(figures: dict[str, Any]) -> str:
    """Return what was found, in a sentence."""
    ours = figures["rows"]["cascade"]
    return (
        f"On one core of this machine ({figures['machine']['cpu']}) the `home` cascade "
        f"answers {ours['times_torch']:.1f} times as many texts a second, one at a "
        f"time, as the same fine-tuned encoder in the Hugging Face `pipeline` (torch, "
        f"one thread), in the same run ({ours['times_torch_min']:.1f} to "
        f"{ours['times_torch_max']:.1f} over {figures['rounds']} rounds)."
    )


def show(figures: dict[str, Any]) -> None:
    """Print the table for eyes, and what to know about it."""
    from rich.console import Console
    from rich.table import Table

    where = figures["machine"]
    table = Table(
        title=f"{figures['bundle']}, one core of {where['cpu']} ({where['name']}), "
        f"one text at a time"
    )
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number else "left")
    for line in cells(figures):
        table.add_row(*line)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(claim(figures), markup=False, highlight=False)
    console.print(
        f"Medians of {figures['rounds']} rounds of {figures['passes']} x "
        f"{figures['texts']} sample texts. times: texts/s as a multiple of the first "
        "row of the same round. MB: resident. start s: from process start to the first "
        "answer. same: labels as our encoder alone gives them (the peer's logits are "
        f"off by {figures['logits_off']:.1%}: int8).",
        style="dim",
    )
    for row, why in figures["failed"].items():
        console.print(f"{ROWS[row]}: left out, {why}", style="yellow", markup=False)
    if where["load_before"] > where["cores"] / 4:
        console.print(
            f"Others were at work (load {where['load_before']}): trust the ratios, "
            "not the milliseconds.",
            style="yellow",
        )


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; exit status 2 where it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python bench/peers.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    allowed = sorted(os.sched_getaffinity(0))
    number = {"type": int, "metavar": "N"}
    parser.add_argument("--rounds", default=5, **number, help="default: 5")
    parser.add_argument(
        "--passes", default=3, **number, help="over the texts, in a round; default: 3"
    )
    parser.add_argument(
        "--core", default=allowed[-1], **number, help="which core; default: the last"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the figures as JSON")
    form.add_argument("--markdown", action="store_true", help="print a README's table")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the figures as JSON, too"
    )
    options = parser.parse_args(arguments)
    if min(options.rounds, options.passes) < 1:
        parser.error("--rounds and --passes: at least 1")
    if options.core not in allowed:
        parser.error(f"--core: there are {', '.join(map(str, allowed))}")
    if options.out and not options.out.parent.is_dir():
        parser.error(f"--out: there is no folder {options.out.parent}")
    return options


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and return the exit status."""
    if arguments[:1] == ["--work"]:
        row, bundle, folder, passes = arguments[1:]
        print(json.dumps(work(row, Path(bundle), Path(folder), int(passes))))
        return 0
    options = parsed(arguments)
    try:
        import onnx  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
        from rich.console import Console
    except ImportError as error:
        print(f"{error.name} is missing: pip install -e '.[workshop]'", file=sys.stderr)
        return 2
    with Console(stderr=True).status("") as status:
        try:
            figures = measure(
                options.rounds, options.passes, options.core, status.update
            )
        except RowError as error:
            print(error, file=sys.stderr)
            return 1
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    if options.json:
        print(json.dumps(figures, indent=2))
    elif options.markdown:
        print(markdown(figures))
    else:
        show(figures)
    if not figures["same_encoder"]:
        print(
            "not the same encoder: labels agree on "
            f"{figures['rows']['torch']['labels_as_encoder']:.1%} of the texts (at "
            f"least {AGREEMENT:.0%} must), logits are off by "
            f"{figures['logits_off']:.2f} (at most {LOGITS_OFF})",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
