"""A pipeline at work: configuration, bundle and policy of one road, opened."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agent.bundle import Bundle, Calibration, open_bundle
from agent.config import Config, PipelineFile
from agent.decide import Policy, decide
from agent.errors import ConfigError
from agent.filters import matches
from agent.text import Reader
from agent.types import Decision, Message, Prediction, Task
from agent.wire import Topics


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

    def judge(self, prediction: Prediction) -> Decision:
        """Decide on what this pipeline asked for; leave out the rest."""
        asked = prediction
        if Task.CLASSIFY not in self.tasks:
            asked = replace(asked, label=None, score=None)
        if Task.EXTRACT not in self.tasks:
            asked = replace(asked, entities=())
        return decide(asked, self.policy)

    def wants(self, message: Message, filters: list[str] | None) -> bool:
        """Tell whether a message is for this pipeline.

        `filters` are those the broker says it matched; None where it cannot say.
        """
        if filters is not None:
            return any(topic in filters for topic in self.filters)
        return any(matches(topic, message.topic) for topic in self.filters)


def open_pipelines(config: Config) -> list[Pipeline]:
    """Open every enabled pipeline; one bundle is loaded once. Raises ConfigError."""
    bundles: dict[Path, Bundle] = {}
    opened = []
    for name, spec in config.pipelines.items():
        folder = config.bundle_dir(name)
        if folder not in bundles:
            bundle = open_bundle(folder, config.agent.engine.threads)
            if bundle.id in {known.id for known in bundles.values()}:
                raise ConfigError(f"{folder}: another bundle is called {bundle.id} too")
            bundles[folder] = bundle
        opened.append(_open(config, name, spec, bundles[folder]))
    return opened


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
        policy=policy(spec, bundle.manifest.calibration),
        result_topic=spec.output.topic or topics.result(name),
        dead_letter_topic=topics.dead_letter(name),
    )


def policy(spec: PipelineFile, calibration: Calibration) -> Policy:
    """Choose the threshold that the calibration gives for the error asked for.

    The row of the largest error that is still allowed; none: nothing is resolved.
    Bundles are calibrated on labels. Where only entities are wanted, the weakest one
    must be right with probability 1 - max_error by its own score; nothing is certified.
    """
    allowed = spec.decide.max_error
    if Task.CLASSIFY not in spec.tasks:
        return Policy(Task.EXTRACT, 1.0 - allowed)
    rows = [row for row in calibration.table if row.max_error <= allowed]
    if not rows:
        return Policy(Task.CLASSIFY, None)
    best = max(rows, key=lambda row: row.max_error)
    bound = best.max_error if calibration.certified else None
    return Policy(Task.CLASSIFY, best.threshold, bound)


def bundles_of(pipelines: list[Pipeline]) -> Mapping[str, Bundle]:
    """Return the loaded bundles by id, each once."""
    return {pipeline.bundle.id: pipeline.bundle for pipeline in pipelines}
