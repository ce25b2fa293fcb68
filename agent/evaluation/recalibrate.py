"""`slm-agent calibrate`: scores and thresholds from the operator's own labelled data.

It runs on the device, with the model and runtime that answer there, and does not need
the workshop.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from agent.config.load import Config
from agent.core.errors import ConfigError, Unreadable
from agent.core.files import replace
from agent.core.types import Guarantee
from agent.evaluation.examples import Example
from agent.evaluation.fitting import calibrate
from agent.evaluation.samples import CalibrationSample
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
    """Run every tier on every example, and return a calibration fitted on that.

    `name` is a pipeline, `data` names the examples for people; `progress` is called
    after each example. Raises ConfigError if a text cannot be read, if there are too
    few examples, or if none has what the pipeline guarantees.
    """
    guarantee = config.pipelines[name].guarantee
    for what, key in missing_truth(config, name, examples).items():
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


def missing_truth(
    config: Config, name: str, examples: Sequence[Example]
) -> dict[Guarantee, str]:
    """Return what the bundle predicts and no example has, with the missing key.

    Keys are Guarantee.LABEL and Guarantee.ENTITIES, values `label` and `spans`.
    """
    manifest = read_manifest(config.bundle_dir(name))
    missing = {}
    if manifest.labels and all(example.label is None for example in examples):
        missing[Guarantee.LABEL] = "label"
    if manifest.entities and all(example.spans is None for example in examples):
        missing[Guarantee.ENTITIES] = "spans"
    return missing


def write(made: Calibration, path: Path) -> None:
    """Write a calibration, as a whole or not at all; raises ConfigError."""
    try:
        replace(path, f"{made.model_dump_json(indent=1)}\n".encode())
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror or error}; name another place with --out, or let "
            "pipelines.dir be a folder of your own"
        ) from error
