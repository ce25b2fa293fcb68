"""A pipeline at work: configuration, bundle and policy of one road, opened."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from agent.bundle import Bundle, failed_probes, open_bundle
from agent.calibration import Calibration
from agent.config import Config, PipelineFile
from agent.decide import Policy, decide, stands
from agent.errors import BundleError, ConfigError
from agent.filters import matches
from agent.text import Reader
from agent.types import Decision, Message, Prediction, Task
from agent.wire import Topics

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One road from topic to result."""

    name: str
    tasks: frozenset[Task]
    filters: tuple[str, ...]
    reader: Reader
    bundle: Bundle
    policy: Policy
    result_topic: str
    dead_letter_topic: str

    def answer(self, texts: Sequence[str]) -> list[Decision]:
        """Decide about each text; blocks, never in the event loop."""
        found = self.bundle.predict(texts, lambda p: stands(p, self.policy))
        return [self.judge(prediction) for prediction in found]

    def judge(self, prediction: Prediction) -> Decision:
        """Decide on a prediction; leave out what this pipeline did not ask for."""
        asked = prediction
        if Task.CLASSIFY not in self.tasks:
            asked = replace(asked, label=None, score=None)
        if Task.EXTRACT not in self.tasks:
            asked = replace(asked, entities=(), entities_score=None)
        return decide(asked, self.policy)

    def wants(self, message: Message, filters: list[str] | None) -> bool:
        """Tell whether a message is for this pipeline.

        `filters` are those the broker says it matched; None where it cannot say.
        """
        if filters is not None:
            return any(topic in filters for topic in self.filters)
        return any(matches(topic, message.topic) for topic in self.filters)


def open_pipelines(config: Config, *, probe: bool = True) -> list[Pipeline]:
    """Open every enabled pipeline; one bundle is loaded once. Raises ConfigError.

    With `probe`, every bundle is asked its own probes, and one whose answers are others
    on this processor is refused.
    """
    bundles: dict[tuple[Path, Path | None], Bundle] = {}
    opened = []
    for name, spec in config.pipelines.items():
        place = (config.bundle_dir(name), config.calibration(name))
        if place not in bundles:
            bundles[place] = _open_bundle(config, *place, probe=probe)
        opened.append(_open(config, name, spec, bundles[place]))
    folders: dict[str, Path] = {}
    for (folder, _), bundle in bundles.items():
        if folders.setdefault(bundle.id, folder) != folder:
            raise ConfigError(f"{folder}: another bundle is called {bundle.id} too")
    return opened


def _open_bundle(
    config: Config, folder: Path, calibration: Path | None, *, probe: bool
) -> Bundle:
    bundle = open_bundle(folder, config.agent.engine.threads, calibration)
    failures = failed_probes(bundle) if probe else []
    if failures:
        raise BundleError(
            f"{folder}: answers differently on this machine than where it was made "
            f"({len(failures)} of {len(bundle.probes)} probes), first {failures[0]}"
        )
    if not bundle.calibrated:
        found = mismatch(bundle)
        if config.agent.models.on_mismatch == "refuse":
            raise BundleError(f"{folder}: {found}")
        log.warning("calibration_mismatch", bundle=bundle.id, detail=found)
    return bundle


def mismatch(bundle: Bundle) -> str:
    """Say what does not fit, and what to do."""
    made = bundle.calibration
    return (
        f"the calibration ({made.data}, {made.runtime}) was made with another model, "
        "tokenizer, labels or runtime; run slm-agent calibrate, or set "
        "models.on_mismatch"
    )


def _open(config: Config, name: str, spec: PipelineFile, bundle: Bundle) -> Pipeline:
    able = {
        Task.CLASSIFY: bool(bundle.manifest.labels),
        Task.EXTRACT: bool(bundle.manifest.entities),
    }
    unable = sorted(task for task in spec.tasks if not able[task])
    if unable:
        raise ConfigError(
            f"pipelines/{name}.toml: kind: {spec.kind!r} wants the bundle "
            f"{bundle.id} to {' and '.join(unable)}, which it cannot"
        )
    topics = Topics(config.agent.device.id)
    trusted = bundle.calibrated or config.agent.models.on_mismatch == "warn"
    return Pipeline(
        name=name,
        tasks=spec.tasks,
        filters=tuple(spec.input.topics),
        reader=Reader(
            text=spec.input.text,
            id=spec.input.id,
            encoding=spec.input.encoding,
            max_chars=spec.input.max_chars,
        ),
        bundle=bundle,
        policy=replace(
            policy(spec, bundle.calibration, fits=bundle.calibrated),
            calibrated=trusted,
        ),
        result_topic=spec.output.topic or topics.result(name),
        dead_letter_topic=topics.dead_letter(name),
    )


def policy(
    spec: PipelineFile, calibration: Calibration, *, fits: bool = True
) -> Policy:
    """Choose the threshold that the calibration gives for the error asked for.

    The row of the largest error that is still allowed; none: nothing is resolved. The
    bound is stated only where it is certified, and by what the bundle runs on.
    """
    guarantee = spec.guarantee
    row = calibration.threshold(guarantee, spec.decide.max_error)
    if row is None:
        return Policy(guarantee, None)
    certified = fits and calibration.certified
    return Policy(guarantee, row.threshold, row.max_error if certified else None)


def bundles_of(pipelines: Sequence[Pipeline]) -> list[Bundle]:
    """Return the loaded bundles, each once; with another calibration it is another."""
    return list(
        {id(pipeline.bundle): pipeline.bundle for pipeline in pipelines}.values()
    )
