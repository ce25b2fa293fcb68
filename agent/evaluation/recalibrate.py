"""`slm-agent calibrate`: scores and thresholds from the operator's own labelled data.

Runs on the device, with the model and the runtime that answer there: numpy and pure
Python, no workshop.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.config.config import Config
from agent.core.errors import ConfigError, Unreadable
from agent.core.types import Guarantee
from agent.evaluation.examples import Example
from agent.evaluation.fitting import CalibrationSample, calibrate
from agent.inference.bundle import open_bundle
from agent.inference.calibration import Calibration
from agent.inference.encoder import runtime
from agent.inference.manifest import read_manifest
from agent.inference.pipeline import forms_of
from agent.protocol.payload import checked


def recalibrate(
    config: Config,
    name: str,
    examples: Sequence[Example],
    data: str,
    progress: Callable[[], None],
) -> Calibration:
    """Ask every tier about every example and return the calibration that follows.

    `data` names the examples for people. Raises ConfigError where a text cannot be
    read, where there are too few, or none says what the pipeline guarantees.
    """
    guarantee = config.pipelines[name].guarantee
    for what, key in unsaid(config, name, examples).items():
        if guarantee in {what, Guarantee.BOTH}:
            raise ConfigError(
                f"{data}: no line has {key}, and the pipeline {name} guarantees "
                f"{guarantee.value!r}: nothing could be resolved"
            )
    bundle = open_bundle(config.bundle_dir(name), config.agent.engine.threads)
    limit = config.pipelines[name].input.max_chars
    heard = []
    for number, example in enumerate(examples, start=1):
        try:
            text = checked(example.text, limit)
        except Unreadable as why:
            raise ConfigError(f"{data}: example {number}: {why}") from why
        heard.append(CalibrationSample(example, bundle.guesses(text)))
        progress()
    tiers = [stage.by for stage in bundle.stages]
    return calibrate(
        heard,
        tiers,
        bundle.manifest.fingerprint(),
        runtime(),
        data,
        labels=bundle.manifest.labels,
        before=bundle.calibration.tiers,
        forms=forms_of(config.pipelines[name], bundle.manifest),
    )


def unsaid(
    config: Config, name: str, examples: Sequence[Example]
) -> dict[Guarantee, str]:
    """Return what the bundle can say and no example does, with the key that is missing.

    The guarantees are those of labels and of entities.
    """
    manifest = read_manifest(config.bundle_dir(name))
    found = {}
    if manifest.labels and all(example.label is None for example in examples):
        found[Guarantee.LABEL] = "label"
    if manifest.entities and all(example.spans is None for example in examples):
        found[Guarantee.ENTITIES] = "spans"
    return found


def unknown_labels(
    config: Config, name: str, examples: Sequence[Example]
) -> dict[str, int]:
    """Count the examples of each label that the bundle cannot give: out of scope."""
    known = set(read_manifest(config.bundle_dir(name)).labels)
    labels = (example.label for example in examples if example.label is not None)
    return dict(Counter(label for label in labels if label not in known))


def write(made: Calibration, path: Path) -> None:
    """Write the calibration, complete or not at all; raises ConfigError."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(f"{made.model_dump_json(indent=1)}\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror or error}; name another place with --out, or let "
            "pipelines.dir be a folder of your own"
        ) from error
