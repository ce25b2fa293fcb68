"""Write digests of what each bundle computes, to the bit: same_numbers.py MODELS OUT.

Every encoder of the folder gets texts of several lengths, of random tokens, and all
heads get what their trunk makes of them. Equal digests on two processors: equal
answers. Needs onnxruntime, and finds the package's.
"""

import hashlib
import json
import sys
from pathlib import Path

sys.path.append("/usr/lib/slm-agent")

import numpy as np
import onnxruntime

LENGTHS = (*range(2, 24), 32, 48, 64)  # tokens; 64 are the window of what ships

Feed = dict[str, np.ndarray]


def opened(graph: Path) -> onnxruntime.InferenceSession:
    """Open a graph as the daemon does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(graph, options, providers=providers)


def texts(encoder: Path) -> list[Feed]:
    """Return one text of each length."""
    tokenizer = json.loads(encoder.with_name("tokenizer.json").read_text("utf-8"))
    pieces = len(tokenizer["model"]["vocab"])
    chance = np.random.default_rng(0)
    found = []
    for tokens in LENGTHS:
        ids = chance.integers(0, pieces, (1, tokens))
        found.append({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    return found


def asked(graph: Path, feeds: list[Feed]) -> tuple[str, list[Feed]]:
    """Return the sha256 of all outputs, and what heads would get of them."""
    session = opened(graph)
    names = [output.name for output in session.get_outputs()]
    wanted = [given.name for given in session.get_inputs()]
    digest = hashlib.sha256()
    handed = []
    for feed in feeds:
        outputs = session.run(names, {name: feed[name] for name in wanted})
        for output in outputs:
            digest.update(output.tobytes())
        mask = feed["attention_mask"]
        handed.append(
            {"attention_mask": mask, **dict(zip(names, outputs, strict=True))}
        )
    return digest.hexdigest(), handed


def main(models: Path, out: Path) -> None:
    """Write the digests as JSON, by folder."""
    digests = {}
    for encoder in sorted(models.glob("*/encoder.onnx")):
        name = encoder.parent.name
        digests[name], handed = asked(encoder, texts(encoder))
        for manifest in sorted(models.glob("*/manifest.json")):
            heads = manifest.with_name("heads.onnx")
            if heads.is_file() and f"../{name}/" in manifest.read_text("utf-8"):
                digests[manifest.parent.name], _ = asked(heads, handed)
    out.write_text(json.dumps(digests, indent=1), "utf-8")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
