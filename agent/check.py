"""`slm-agent check`: everything that can be known before the daemon starts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from agent.app import endpoint
from agent.bundle import failed_probes
from agent.config import Config
from agent.evaluate import answer
from agent.jsonl import read_records
from agent.pipeline import Pipeline, bundles_of, open_pipelines
from agent.types import Decision
from agent.wire import decision_object


class CaseEntity(BaseModel):
    """An entity that a case expects, by its words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    text: str


class Case(BaseModel):
    """A line of pipelines/<name>.cases.jsonl; what is left out is not compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    status: Literal["resolved", "unresolved"] | None = None
    label: str | None = None
    entities: tuple[CaseEntity, ...] | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: Literal["ok", "warning", "error"]
    subject: str
    detail: str


def check(config: Config) -> Iterator[Finding]:
    """Yield findings in the order in which they are made; raises ConfigError."""
    yield Finding("ok", "config", f"device {config.agent.device.id}")
    endpoint(config)
    pipelines = open_pipelines(config)
    for name, bundle in bundles_of(pipelines).items():
        files = len(bundle.manifest.files)
        yield Finding("ok", name, f"{files} files as in the manifest, opened")
        failures = failed_probes(bundle)
        for failure in failures:
            yield Finding("error", name, f"a probe answers differently here: {failure}")
        if not failures:
            yield Finding("ok", name, f"{len(bundle.probes)} probes answer as expected")
    for pipeline in pipelines:
        yield from _promise(config, pipeline)
        yield from _cases(config, pipeline)


def _promise(config: Config, pipeline: Pipeline) -> Iterator[Finding]:
    """Say what max_error is worth with this bundle."""
    wanted = config.pipelines[pipeline.name].decide.max_error
    policy = pipeline.policy
    if policy.threshold is None:
        table = pipeline.bundle.manifest.calibration.table
        least = min((row.max_error for row in table), default=None)
        can = f"; it can keep {least:g}" if least else ""
        yield Finding(
            "warning",
            pipeline.name,
            f"max_error {wanted:g}: {pipeline.bundle.id} cannot keep it, so nothing is "
            f"resolved locally{can}",
        )
    elif policy.error_bound is None:
        yield Finding(
            "warning",
            pipeline.name,
            f"max_error {wanted:g}: threshold {policy.threshold:.4f} was tuned, "
            "not certified",
        )
    else:
        made = pipeline.bundle.manifest.calibration
        sure = f" with {made.confidence:.0%} confidence" if made.confidence else ""
        yield Finding(
            "ok",
            pipeline.name,
            f"at most {policy.error_bound:g} of the resolved labels are wrong: "
            f"certified{sure} on {made.n} texts",
        )


def _cases(config: Config, pipeline: Pipeline) -> Iterator[Finding]:
    path = config.agent.pipelines.dir / f"{pipeline.name}.cases.jsonl"
    if not path.exists():
        yield Finding("warning", pipeline.name, f"no example cases: {path} is missing")
        return
    failed = 0
    cases = read_records(path, Case, "cases")
    for number, case in enumerate(cases, start=1):
        for difference in differences(case, answer(pipeline, case.text)):
            failed += 1
            yield Finding("error", pipeline.name, f"case {number}: {difference}")
    if not failed:
        yield Finding("ok", pipeline.name, f"{len(cases)} example cases pass")


def differences(case: Case, decision: Decision) -> Iterator[str]:
    """Yield what a decision has otherwise than the case expects."""
    said = decision_object(decision)
    got = {
        "status": said["status"],
        "label": said["label"],
        "entities": [(e["label"], e["text"]) for e in said["entities"]],
    }
    wanted = {
        "status": case.status,
        "label": case.label,
        "entities": case.entities and [(e.label, e.text) for e in case.entities],
    }
    if case.entities == ():
        wanted["entities"] = []
    for key, value in wanted.items():
        if value is not None and got[key] != value:
            yield f"{case.text!r}: {key} is {got[key]}, expected {value}"
