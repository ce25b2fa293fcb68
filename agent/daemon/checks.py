"""`slm-agent check`: everything that can be known before the daemon starts."""

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from agent.config.load import Config
from agent.core.files import exists
from agent.core.findings import Finding
from agent.core.jsonl import read_records
from agent.core.types import Decision, Form, Guarantee
from agent.daemon.endpoint import endpoint
from agent.daemon.opened import finder_of, transport_of
from agent.evaluation.evaluate import answer
from agent.fleet.status import FleetStatus
from agent.inference.bundle import failed_probes
from agent.inference.pipeline import Pipeline, bundles_of, mismatch, open_pipelines
from agent.protocol.messages import decision_object

WRONG = {
    Guarantee.LABEL: "a wrong label",
    Guarantee.ENTITIES: "a wrong entity",
    Guarantee.BOTH: "a wrong label or entity",
}


class CaseEntity(BaseModel):
    """An entity that a case expects, by its words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    text: str


class ExampleCase(BaseModel):
    """A line of pipelines/<name>.cases.jsonl; what is left out is not compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    status: Literal["resolved", "unresolved"] | None = None
    label: str | None = None
    entities: tuple[CaseEntity, ...] | None = None
    reason: str | None = None
    form: str | None = None


def membership(status: FleetStatus) -> Iterator[Finding]:
    """Say where the device stands in its fleet, if it is in one."""
    if status.state is None:
        return
    if status.problem:
        yield Finding("error", "fleet", str(status))
    else:
        yield Finding("ok" if status.is_well else "warning", "fleet", str(status))


def check(config: Config) -> Iterator[Finding]:
    """Yield findings in the order in which they are made; raises ConfigError."""
    yield Finding("ok", "config", f"device {config.agent.device.id}")
    endpoint(config)
    pipelines = open_pipelines(config, probe=False)
    for bundle in bundles_of(pipelines):
        name = bundle.id
        files = len(bundle.manifest.files)
        yield Finding("ok", name, f"{files} files as in the manifest, opened")
        failures = failed_probes(bundle)
        for failure in failures:
            yield Finding("error", name, f"a probe answers differently here: {failure}")
        if not failures:
            yield Finding("ok", name, f"{len(bundle.probes)} probes answer as expected")
        if not bundle.calibrated:
            yield Finding("warning", name, mismatch(bundle))
    yield from _upstream(config, pipelines)
    for pipeline in pipelines:
        yield from _promise(config, pipeline)
        yield from _cases(config, pipeline)


def _upstream(config: Config, pipelines: Sequence[Pipeline]) -> Iterator[Finding]:
    """Say what may leave the device, and where to."""
    transport = transport_of(config)
    if transport is None:
        yield Finding("ok", "upstream", "none: nothing leaves this device")
        return
    finder_of(config, pipelines)
    yield Finding("ok", "upstream", f"{transport.name} to {transport.to}")
    for pipeline in pipelines:
        plan = pipeline.plan
        if plan is None:
            yield Finding("ok", pipeline.name, "privacy 'never': nothing goes upstream")
        elif not plan.redacts:
            yield Finding("warning", pipeline.name, "texts go upstream as they are")
        else:
            yield Finding("ok", pipeline.name, "personal data is hidden from upstream")


def _promise(config: Config, pipeline: Pipeline) -> Iterator[Finding]:
    """Say what max_error is worth with this bundle."""
    wanted = config.pipelines[pipeline.name].decide.max_error
    policy = pipeline.policy
    made = pipeline.bundle.calibration
    what = WRONG[policy.guarantee]
    if not policy.calibrated:
        yield Finding(
            "warning",
            pipeline.name,
            "nothing is resolved locally: the calibration does not fit, and "
            "models.on_mismatch is escalate_all",
        )
    elif policy.threshold is None:
        least = made.least_error(policy.guarantee)
        can = f"; it can keep {least:g}" if least else ""
        yield Finding(
            "warning",
            pipeline.name,
            f"max_error {wanted:g} on {what}: {made.certified_on} calibration texts of "
            f"{pipeline.bundle.id} cannot certify it, so nothing is resolved "
            f"locally{can}",
        )
    elif policy.error_bound is None:
        yield Finding(
            "warning",
            pipeline.name,
            f"max_error {wanted:g} on {what}: not certified ({_uncertified(pipeline)})",
        )
    else:
        fewer = f"; min_score {pipeline.min_score:g} resolves fewer"
        yield Finding(
            "ok",
            pipeline.name,
            f"at most {policy.error_bound:g} of the resolved messages have {what}: "
            f"certified with {made.confidence:.0%} confidence on {made.certified_on} "
            f"texts{fewer if pipeline.floored else ''}",
        )


def _uncertified(pipeline: Pipeline) -> str:
    """Say why no bound is stated, and what would help."""
    data = "slm-agent calibrate with your own texts helps"
    if not pipeline.bundle.calibrated:
        return f"the calibration does not fit; {data}"
    if not pipeline.bundle.calibration.certified:
        return f"{pipeline.bundle.calibration.data} is not data like yours; {data}"
    return f"min_score {pipeline.min_score:g} is stricter than all that was tried"


def _cases(config: Config, pipeline: Pipeline) -> Iterator[Finding]:
    path = config.agent.pipelines.dir / f"{pipeline.name}.cases.jsonl"
    if not exists(path):
        yield Finding("warning", pipeline.name, f"no example cases: {path} is missing")
        return
    failed = 0
    cases = read_records(path, ExampleCase, "cases")
    for number, case in enumerate(cases, start=1):
        for difference in differences(case, answer(pipeline, case.text)):
            failed += 1
            yield Finding("error", pipeline.name, f"case {number}: {difference}")
    if not failed:
        yield Finding("ok", pipeline.name, f"{len(cases)} example cases pass")


def differences(case: ExampleCase, decision: Decision) -> Iterator[str]:
    """Yield what a decision has otherwise than the case expects."""
    decided = decision_object(decision)
    got = {
        "status": decided["status"],
        "label": decided["label"],
        "entities": [(e["label"], e["text"]) for e in decided["entities"]],
        "reason": decided["reason"],
        "form": decided.get("form", Form.REQUEST.value),
    }
    wanted = {
        "status": case.status,
        "label": case.label,
        "entities": case.entities and [(e.label, e.text) for e in case.entities],
        "reason": case.reason,
        "form": case.form,
    }
    if case.entities == ():
        wanted["entities"] = []
    for key, value in wanted.items():
        if value is not None and got[key] != value:
            yield f"{case.text!r}: {key} is {got[key]}, expected {value}"
