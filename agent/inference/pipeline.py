"""A pipeline at work: configuration, bundle and policy, opened."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import structlog

from agent.config.agent_file import UpstreamSection
from agent.config.load import Config
from agent.config.pipeline_file import FieldRule, PipelineFile
from agent.config.section import Limit, Limits
from agent.core.errors import BundleError, ConfigError
from agent.core.expressions import Expression, compiled
from agent.core.types import (
    CheckedKind,
    Decision,
    Form,
    Message,
    Prediction,
    Routing,
    Task,
)
from agent.inference import patterns, scripts
from agent.inference.bundle import Bundle, failed_probes, open_bundle
from agent.inference.calibration import Calibration
from agent.inference.certify import certify
from agent.inference.decide import (
    ANY_FORM,
    Forms,
    LabelLimit,
    Policy,
    Rule,
    decide,
    passes,
    unfit,
)
from agent.inference.manifest import Manifest
from agent.mqtt.topic_filters import matches
from agent.protocol.messages import Topics
from agent.protocol.payload import Reader

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class EscalationSpec:
    """How the unresolved of a pipeline go upstream.

    `labels` and `entities` map what may be answered to what it means.
    """

    labels: Mapping[str, str]
    entities: Mapping[str, str]
    redacts: bool
    visible: frozenset[str]  # types of personal data that may leave
    provisional: bool
    deadline_s: float
    priority: int
    limit: Limit
    scripts: frozenset[str] = frozenset()  # beside LATIN, that may leave
    patterns: Mapping[str, Expression] = field(default_factory=dict)  # the operator's


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The way from topic to result; `plan` is None where nothing may go upstream."""

    name: str
    tasks: frozenset[Task]
    filters: tuple[str, ...]
    reader: Reader
    bundle: Bundle
    policy: Policy
    result_topic: str
    dead_letter_topic: str
    plan: EscalationSpec | None = None
    max_error: float = 0.05  # what the operator asked for
    min_score: float = 0.0  # so too
    explains_text: bool = False

    @property
    def floored(self) -> bool:
        """Whether `min_score` is stricter than `max_error` demands."""
        return 0.0 < self.min_score == self.policy.threshold

    def answer(self, texts: Sequence[str]) -> list[Decision]:
        """Decide about each text; blocks, never in the event loop."""
        predictions = self.bundle.predict(texts, self._enough)
        return [self.decide(prediction) for prediction in predictions]

    def _enough(self, prediction: Prediction) -> bool:
        """Tell whether no later tier need be asked."""
        policy = self.policy
        return passes(prediction, policy) and unfit(prediction, policy.forms) is None

    def decide(self, prediction: Prediction) -> Decision:
        """Decide on a prediction; leave out what this pipeline did not ask for."""
        asked = prediction
        if Task.CLASSIFY not in self.tasks:
            asked = replace(asked, label=None, score=None, forms=(), ruled=())
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
        reason = mismatch(bundle)
        if config.agent.models.on_mismatch == "refuse":
            raise BundleError(f"{folder}: {reason}")
        log.warning("calibration_mismatch", bundle=bundle.id, detail=reason)
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
    _check_names(name, spec, bundle)
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
            max_bytes=spec.input.max_bytes,
        ),
        bundle=bundle,
        policy=replace(
            policy(
                spec,
                bundle.calibration,
                forms_of(spec, bundle.manifest),
                fits=bundle.calibrated,
                labels=bundle.manifest.labels,
            ),
            calibrated=trusted,
        ),
        result_topic=spec.output.topic or topics.result(name),
        dead_letter_topic=topics.dead_letter(name),
        plan=_plan(name, spec, bundle, config.agent.upstream),
        max_error=spec.decide.max_error,
        min_score=spec.decide.min_score,
        explains_text=spec.explain == "text",
    )


def _check_names(name: str, spec: PipelineFile, bundle: Bundle) -> None:
    """Refuse rules for labels and entity types that the bundle does not have."""
    labels, entities = set(bundle.manifest.labels), set(bundle.manifest.entities)
    required = {each for rule in spec.fields.values() for each in rule.labels}
    wanted: list[tuple[str, Iterable[str], AbstractSet[str]]] = [
        ("decide.labels", spec.decide.labels, labels),
        ("fields", spec.fields, entities),
        ("fields.*.labels", required, labels),
        ("upstream.labels", spec.upstream.labels, labels),
        ("upstream.descriptions", spec.upstream.descriptions, labels | entities),
    ]
    if spec.privacy.scripts:
        wanted.append(("privacy.scripts", spec.privacy.scripts, scripts.known()))
    for key, names, known in wanted:
        unknown = sorted(set(names) - known)
        if unknown:
            raise ConfigError(
                f"pipelines/{name}.toml: {key}: {unknown[0]!r} is unknown to "
                f"{_whose(key, bundle)}"
            )


def _whose(key: str, bundle: Bundle) -> str:
    return "Unicode" if key == "privacy.scripts" else f"the bundle {bundle.id}"


def _plan(
    name: str, spec: PipelineFile, bundle: Bundle, upstream: UpstreamSection | None
) -> EscalationSpec | None:
    asked = spec.upstream
    if upstream is None or asked.privacy == "never":
        return None

    def meant(names: Sequence[str], task: Task) -> dict[str, str]:
        if task not in spec.tasks:
            return {}
        return {
            each: asked.descriptions.get(each) or each.replace("_", " ").lower()
            for each in names
        }

    return EscalationSpec(
        labels=meant(bundle.manifest.labels, Task.CLASSIFY),
        entities=meant(bundle.manifest.entities, Task.EXTRACT),
        redacts=asked.privacy == "redact",
        visible=frozenset(asked.visible),
        provisional=asked.on_unresolved == "provisional",
        deadline_s=asked.deadline_s or upstream.deadline_s,
        priority=asked.priority,
        limit=limit(name, asked.budget),
        scripts=frozenset(spec.privacy.scripts),
        patterns={kind: compiled(p) for kind, p in spec.privacy.patterns.items()},
    )


def limit(scope: str, limits: Limits) -> Limit:
    """Return what may be spent in a day, in the units of the books."""
    money = limits.money_per_day
    return Limit(
        scope,
        limits.calls_per_day,
        limits.tokens_per_day,
        None if money is None else round(money * 1_000_000),
    )


def _rules(fields: Mapping[str, FieldRule]) -> dict[str, Rule]:
    return {
        kind: Rule(
            required=rule.required,
            labels=frozenset(rule.labels),
            pattern=compiled(rule.pattern) if rule.pattern else None,
            check=partial(_is_wholly, CheckedKind(rule.check)) if rule.check else None,
        )
        for kind, rule in fields.items()
    }


def _is_wholly(kind: CheckedKind, words: str) -> bool:
    """Tell whether these words, and no fewer, are checked data of a kind."""
    return patterns.checked(words, kind)


def forms_of(spec: PipelineFile, manifest: Manifest) -> Forms:
    """Return which forms a pipeline answers: what the operator says, else the bundle.

    A label that is a question by nature allows questions beside what the pipeline does.
    """
    if Task.CLASSIFY not in spec.tasks:
        return ANY_FORM
    decide, own = spec.decide, manifest.forms
    if decide.forms:
        own = own.model_copy(update={"default": [*map(Form, decide.forms)]})
    forms = own.allowing()
    labels = dict(forms.labels)
    labels |= {
        label: frozenset(map(Form, one.forms))
        for label, one in decide.labels.items()
        if one.forms is not None
    }
    return Forms(forms.default, labels)


def policy(
    spec: PipelineFile,
    calibration: Calibration,
    forms: Forms = ANY_FORM,
    *,
    fits: bool = True,
    labels: Sequence[str] = (),
) -> Policy:
    """Choose the threshold that the calibration gives for the error asked for.

    The row of the largest error that is still allowed, or a stricter one where the
    operator wants that; none: nothing is resolved. The bound is stated only where it
    is certified, by what the bundle runs on, and with these forms.
    """
    guarantee = spec.guarantee
    asked = spec.decide.max_error
    row = calibration.threshold(guarantee, asked)
    threshold = max(row.threshold, spec.decide.min_score) if row else None
    certified = (
        fits
        and calibration.certified
        and calibration.made_with(forms)
        and threshold is not None
        and calibration.certifies(guarantee, asked, threshold)
    )
    return Policy(
        guarantee,
        threshold,
        row.max_error if row and certified else None,
        routing=Routing(spec.upstream.policy),
        routing_by_label={
            label: Routing(to) for label, to in spec.upstream.labels.items()
        },
        rules=_rules(spec.fields),
        forms=forms,
        stricter=stricter(
            spec, calibration, labels, sound=fits and calibration.certified
        ),
    )


def stricter(
    spec: PipelineFile,
    calibration: Calibration,
    labels: Sequence[str],
    *,
    sound: bool,
) -> dict[str, LabelLimit]:
    """Return the limits of the labels that have a stricter error, and of the others.

    Labels with the same error are certified together: of the answers with any of them.
    The others are then certified without these, as they are no longer among them. No
    threshold: nothing is resolved. `sound`: whether a bound may be stated at all.
    """
    errors = {
        label: one.max_error
        for label, one in spec.decide.labels.items()
        if one.max_error is not None
    }
    if not errors:
        return {}
    groups: dict[float, list[str]] = {}
    for label in labels:
        groups.setdefault(errors.get(label, spec.decide.max_error), []).append(label)
    limits: dict[str, LabelLimit] = {}
    for error, group in groups.items():
        numbers = {labels.index(label) for label in group}
        made = certify(calibration.cases(spec.guarantee, numbers), error)
        threshold = max(made.threshold, spec.decide.min_score) if made else None
        limit = LabelLimit(threshold, error if made and sound else None)
        limits |= dict.fromkeys(group, limit)
    return limits


def bundles_of(pipelines: Sequence[Pipeline]) -> list[Bundle]:
    """Return the loaded bundles, each once; with another calibration it is another."""
    return list(
        {id(pipeline.bundle): pipeline.bundle for pipeline in pipelines}.values()
    )
