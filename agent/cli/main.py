"""The command line."""

import asyncio
import json
import sys
from contextlib import suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent import __version__
from agent.cli.fleet import fleet
from agent.core.errors import ConfigError, Undelivered, Unready

if TYPE_CHECKING:
    from agent.cli.check import Finding
    from agent.config.config import Config

CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="agent.toml; default /etc/slm-agent/agent.toml, else built-in defaults.",
)
OWN = click.option(
    "--own", is_flag=True, help="Of the device's own files, whatever its fleet says."
)
JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="slm-agent")
def cli() -> None:
    """Understand text messages on the device.

    Subscribes to MQTT topics, understands each message with small int8 models, and
    publishes a structured result. What the models are not sure of comes out as
    `unresolved`, with the reason.

    \b
    First steps:
      slm-agent demo                             the whole system, no set-up
      slm-agent try home "turn off the lights"   one text, one answer
      slm-agent check --config agent.toml        before you start the daemon
      slm-agent run --config agent.toml          the daemon

    Exit status: 0 fine, 1 not as it should be, 2 wrong configuration or usage.
    """  # noqa: D301  \b is click's mark of a paragraph to leave as it is


@cli.command()
@CONFIG
def run(config: Path | None) -> None:
    """Run the daemon until SIGTERM."""
    from agent.config.config import Config
    from agent.core import log
    from agent.daemon import app

    log.configure("info")

    def told(found: Config) -> None:
        log.set_level(found.agent.log.level)

    asyncio.run(app.run(config, told))


@cli.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="broker.toml; default /etc/slm-agent/broker.toml.",
)
def broker(config: Path | None) -> None:
    """Run the upstream side: cases in, a language model asked, answers out.

    For a server: pip install 'slm-agent[broker]'.
    """
    from agent.broker import main
    from agent.core import log

    log.configure("info")
    asyncio.run(main.run(config))


@cli.command()
@CONFIG
@OWN
@JSON
@click.option(
    "--schema", is_flag=True, help="Print the JSON Schema of each kind of file."
)
def check(config: Path | None, *, own: bool, as_json: bool, schema: bool) -> None:
    """Check configuration, bundles, probes and example cases.

    Of what runs here: in a fleet that is the version applied, over the own files.
    Nothing is connected. Exit status 2 if anything is wrong.
    """
    from agent.config.config import schemas

    if schema:
        from agent.broker.config import BrokerFile

        broker_schema = {"broker.toml": BrokerFile.model_json_schema()}
        click.echo(json.dumps(schemas() | broker_schema, indent=2))
        return
    from agent.cli.check import check as findings
    from agent.cli.check import membership
    from agent.fleet.status import fleet_status

    failed = False
    found = fleet_status(config, own=own)
    for finding in chain(membership(found), findings(found.config)):
        failed |= finding.level == "error"
        _print_finding(finding, as_json=as_json)
    if failed:
        sys.exit(2)


def _print_finding(finding: "Finding", *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(finding), ensure_ascii=False))
        return
    colours = {"ok": "green", "warning": "yellow", "error": "red"}
    level = click.style(f"{finding.level:8}", fg=colours[finding.level])
    click.echo(f"{level}{finding.subject}: {finding.detail}")


def _running(path: Path | None, pipeline: str = "", *, own: bool) -> "Config":
    """Load what runs here; in a fleet, say on standard error which version that is."""
    from agent.fleet.status import fleet_status

    found = fleet_status(path, pipeline, own=own)
    if found.state is not None:
        click.echo(f"fleet: {found}", err=True)
    return found.config


@cli.command()
@CONFIG
@OWN
@JSON
def doctor(config: Path | None, *, own: bool, as_json: bool) -> None:
    """Look at everything around the daemon: broker, access, disk, clock, runtime.

    Beside a running daemon, without disturbing it; `check` looks at the files only.
    Exit status 2 if something is wrong, 0 with warnings.
    """
    from agent.cli.check import Finding
    from agent.cli.doctor import examine
    from agent.fleet.status import fleet_status

    async def all_of() -> list[Finding]:
        found = []
        async for finding in examine(fleet_status(config, own=own)):
            _print_finding(finding, as_json=as_json)
            found.append(finding)
        return found

    if any(finding.level == "error" for finding in asyncio.run(all_of())):
        sys.exit(2)


@cli.command()
@CONFIG
@OWN
@JSON
@click.option("--device", default="+", help="Only this one; default all.")
@click.option("--pipeline", default="+", help="Only this one; default all.")
@click.option("--limit", type=int, help="End after so many.")
def tap(
    config: Path | None,
    device: str,
    pipeline: str,
    limit: int | None,
    *,
    own: bool,
    as_json: bool,
) -> None:
    """Show results and dead letters as they come, from all devices on the broker.

    Example: slm-agent tap --device pi-3 --json | jq .label
    """
    from agent.cli import watching

    found = _running(config, own=own)
    with suppress(KeyboardInterrupt):
        asyncio.run(watching.tap(found, device, pipeline, limit, as_json=as_json))


@cli.command()
@CONFIG
@OWN
@JSON
@click.option("--device", default="+", help="Only this one; default all.")
@click.option("--once", is_flag=True, help="Show what is known now, and end.")
def top(
    config: Path | None, device: str, *, own: bool, once: bool, as_json: bool
) -> None:
    """Show how all devices on the broker are, live.

    What they say of themselves every half minute: share resolved locally, latencies,
    what waits, upstream calls, memory, alerts. --json prints one object a device, once.
    """
    from agent.cli import watching

    found = _running(config, own=own)
    with suppress(KeyboardInterrupt):
        asyncio.run(watching.top(found, device, once=once, as_json=as_json))


@cli.command()
@CONFIG
@JSON
@click.option(
    "--last", type=click.IntRange(min=1), help="Only so many; in a table 50 by default."
)
@click.option("--verify", is_flag=True, help="Check the chain instead of listing it.")
def egress(
    config: Path | None, last: int | None, *, as_json: bool, verify: bool
) -> None:
    """Show what left the device, and prove that nobody changed the list.

    One entry for each request upstream, written before it leaves: when, for which
    message, to whom, how many bytes, what was hidden in them, and their SHA-256. Never
    a text. It may be read while the daemon runs.

    Each entry's hash covers the entry before. --verify makes all of them anew: exit
    status 1 if one was changed or is missing. Keep the last hash, which it prints,
    somewhere else: who can write the file can write another chain, but none in which
    your hash stands.

    \b
      slm-agent egress                          a table of the last 50
      slm-agent egress --json | jq .redactions  one object a line, all of them
      slm-agent egress --verify                 for a daily job
    """  # noqa: D301  \b is click's mark of a paragraph to leave as it is
    from agent.cli import egress as shown
    from agent.config.config import load
    from agent.daemon.assembly import outbox_path

    path = outbox_path(load(config))
    if verify:
        found = shown.calibrated(path)
        click.echo(json.dumps(asdict(found)) if as_json else str(found))
        sys.exit(1 if found.problem else 0)
    if as_json:
        for entry in shown.listed(path, last):
            click.echo(json.dumps(shown.line(entry), ensure_ascii=False))
        return
    shown.show(list(shown.listed(path, last or 50)))


@cli.command("try")
@click.argument("pipeline")
@click.argument("text")
@CONFIG
@OWN
@JSON
def try_(
    pipeline: str, text: str, config: Path | None, *, own: bool, as_json: bool
) -> None:
    """Ask PIPELINE about one TEXT, and say why it answers as it does.

    Example: slm-agent try home "wake me up at seven"
    """
    from agent.evaluation import evaluate
    from agent.inference.pipeline import open_pipelines
    from agent.protocol.messages import decision_object

    [opened] = open_pipelines(_running(config, pipeline, own=own))
    evaluate.answer(opened, "warm up")
    decision, ms = evaluate.timed(opened, text)
    said = {
        "pipeline": opened.name,
        "text": text,
        **decision_object(decision),
        "threshold": opened.policy.threshold,
        "model": opened.bundle.id,
        "ms": round(ms, 3),
    }
    if as_json:
        click.echo(json.dumps(said, ensure_ascii=False))
        return
    _print_answer(said)


def _print_answer(said: dict[str, object]) -> None:
    resolved = said["status"] == "resolved"
    status = click.style(str(said["status"]), fg="green" if resolved else "yellow")
    why = "" if resolved else f" ({said['reason']})"
    click.echo(f"status    {status}{why}")
    threshold = said["threshold"]
    limit = "no threshold" if threshold is None else f"threshold {threshold:.4f}"
    if said["label"] is not None:
        click.echo(f"label     {said['label']}  score {said['score']}, {limit}")
    elif said["score"] is not None:
        click.echo(f"entities  all right with {said['score']}, {limit}")
    if said.get("form"):
        click.echo(f"form      {said['form']}")
    entities = said["entities"]
    if isinstance(entities, list):
        for entity in entities:
            place = f"{entity['start']}-{entity['end']}"
            click.echo(
                f"entity    {entity['label']} = {entity['text']!r}  "
                f"at {place}, score {entity['score']}"
            )
    click.echo(f"by        {said['by']} of {said['model']}, {said['ms']} ms")


@cli.command("eval")
@click.argument("pipeline")
@click.argument("data", type=FILE)
@CONFIG
@OWN
@JSON
@click.option(
    "--predictions", type=FILE, metavar="OUT.jsonl", help="Write each prediction."
)
def eval_(
    pipeline: str,
    data: Path,
    config: Path | None,
    predictions: Path | None,
    *,
    own: bool,
    as_json: bool,
) -> None:
    """Score PIPELINE on labelled DATA, one text at a time.

    DATA is JSON Lines: {"text": ..., "label": ... | null, "spans": [{"start", "end",
    "label"}] | null}, offsets in characters, end exclusive. Texts without a label do
    not count for accuracy, and those without spans not for entities. A line that is no
    such object ends it: figures are of all lines or none.
    """
    from agent.evaluation import evaluate
    from agent.evaluation.examples import read_examples
    from agent.inference.pipeline import open_pipelines

    examples = read_examples(data)
    [opened] = open_pipelines(_running(config, pipeline, own=own))
    bar = click.progressbar(length=len(examples), label=pipeline, file=sys.stderr)
    with bar:
        figures, decisions = evaluate.evaluate(opened, examples, lambda: bar.update(1))
    if predictions:
        lines = [
            json.dumps(evaluate.prediction_line(decision), ensure_ascii=False)
            for decision in decisions
        ]
        try:
            predictions.write_text("\n".join(lines) + "\n", "utf-8")
        except OSError as error:
            raise ConfigError(f"{predictions}: {error.strerror or error}") from error
    if as_json:
        click.echo(json.dumps(figures))
        return
    for key, value in figures.items():
        click.echo(f"{key:18} {value}")


@cli.command()
@click.option(
    "--messages",
    type=FILE,
    metavar="FILE",
    help="Text (a message a line) or .jsonl (with `text`); default: shipped samples.",
)
@click.option("--once", is_flag=True, help="End after the last result.")
@JSON
def demo(messages: Path | None, *, once: bool, as_json: bool) -> None:
    """Show the whole system on an embedded broker.

    In a terminal it goes on with what you type. Exit status 0 only if every message
    ended in exactly one final result.
    """
    from agent.cli import demo as show

    texts = show.read_messages(messages)
    sys.exit(asyncio.run(show.run(texts, once=once, as_json=as_json)))


@cli.command()
@JSON
@click.option(
    "--messages",
    type=click.IntRange(min=2),
    default=2000,
    show_default=True,
    help="Size of the burst.",
)
@click.option("--out", type=FILE, help="Write the figures there, too.")
def bench(messages: int, out: Path | None, *, as_json: bool) -> None:
    """Measure throughput, latency and memory on this machine.

    The real daemon behind a real broker (Mosquitto if it is installed, else the
    embedded one), with the `home` pipeline.
    """
    from agent.cli import bench as measure

    figures = asyncio.run(measure.run(messages))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    if as_json:
        click.echo(json.dumps(figures))
        return
    for section, values in figures.items():
        click.echo(click.style(section, bold=True))
        for key, value in values.items():
            click.echo(f"  {key:26} {value}")


@cli.command()
@click.argument("pipeline")
@click.argument("data", type=FILE)
@CONFIG
@OWN
@JSON
@click.option(
    "--out",
    type=FILE,
    metavar="FILE",
    help="Default: <pipeline>.calibration.json beside the pipeline's file.",
)
def calibrate(
    pipeline: str,
    data: Path,
    config: Path | None,
    out: Path | None,
    *,
    own: bool,
    as_json: bool,
) -> None:
    """Recalibrate PIPELINE on this device with your own labelled DATA.

    DATA is JSON Lines as for `eval`: some hundred texts as they arrive here, with true
    labels and spans. A line without one of these says nothing about it. Three in ten
    fit the scores, seven certify the thresholds. Texts with a label that the bundle
    does not have (such as "oos") are out of scope, and any answer to them is wrong. The
    file written is used from the next start on, instead of the bundle's own
    calibration.
    """
    from agent.evaluation import recalibrate
    from agent.evaluation.examples import read_examples

    examples = read_examples(data)
    loaded = _running(config, pipeline, own=own)
    place = out or loaded.calibration_file(pipeline)
    if not place.parent.is_dir():  # better said before the work than after it
        raise ConfigError(f"{place}: no such folder")
    for label, count in recalibrate.unknown_labels(loaded, pipeline, examples).items():
        click.echo(f"{count} texts are {label!r}: out of scope", err=True)
    for key in recalibrate.unsaid(loaded, pipeline, examples).values():
        click.echo(
            f"no line has {key!r}: what is certified leaves that out, and its scores "
            "stay as they are",
            err=True,
        )
    bar = click.progressbar(length=len(examples), label=pipeline, file=sys.stderr)
    with bar:
        made = recalibrate.recalibrate(
            loaded, pipeline, examples, data.name, lambda: bar.update(1)
        )
    recalibrate.write(made, place)
    if as_json:
        click.echo(made.model_dump_json())
        return
    for guarantee, rows in made.tables.items():
        click.echo(click.style(f"wrong means: {guarantee.value}", bold=True))
        if not rows:
            click.echo(f"  {made.certified_on} texts cannot certify any error")
        for row in rows:
            click.echo(
                f"  max_error {row.max_error:<6g} score {row.threshold:.4f}  "
                f"answers {row.coverage:6.1%}  wrong {row.error:.1%}"
            )
    click.echo(f"{place}: written")


@cli.command()
@click.argument("recipe")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=".",
    show_default=True,
    help="Folder of the data; the recipe names the files in it.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the bundle, default models/<name>; of a trunk's bundles, models.",
)
@click.option("--name", help="Of the pipeline made from a .jsonl file.")
@click.option("--seed", type=int, help="Instead of the recipe's.")
@click.option("--epochs", type=int, help="Instead of the recipe's.")
@click.option(
    "--refit",
    is_flag=True,
    help="Keep the encoder of a trunk that is there; make all else anew, in minutes.",
)
def train(
    recipe: str,
    data: Path,
    out: Path | None,
    name: str | None,
    seed: int | None,
    epochs: int | None,
    *,
    refit: bool,
) -> None:
    """Train, quantise and calibrate the bundle of RECIPE (workshop, not on a device).

    RECIPE is the name of a shipped one, a TOML file, or your own labelled texts.

    \b
      slm-agent train maintenance --data DIR a shipped recipe; DIR has maintie/...
      slm-agent train english --data DIR     the trunk of four bundles, and these
      slm-agent train my.toml --data DIR     a recipe of yours
      slm-agent train my.jsonl --name desk --out desk
                                             some hundred labelled lines: a bundle, a
                                             pipeline and an agent.toml in desk/

    Data is JSON Lines in the format of `eval`. An interrupted run goes on where it was.
    """  # noqa: D301  \b is click's mark of a paragraph to leave as it is
    try:
        import torch as _  # noqa: F401

        from agent.workshop import command
    except ImportError as error:
        raise ConfigError(
            f"the workshop is missing ({error.name}): pip install 'slm-agent[workshop]'"
        ) from error
    if recipe.endswith(".jsonl"):
        if not (name and out):
            raise ConfigError(f"{recipe}: give --name and --out, too")
        folder = command.build_own(Path(recipe), name, out)
        click.echo(f"{folder}: done; try slm-agent check --config {folder}/agent.toml")
        return
    folder = command.build(recipe, data, out, seed, epochs, refit=refit)
    click.echo(f"{folder}: done; its README.md says how good it is")


cli.add_command(fleet)


def main() -> None:
    """Entry point; an error that somebody can mend is one line and status 2."""
    try:
        cli()
    except ConfigError as error:
        for line in str(error).splitlines():
            click.echo(f"error: {line}", err=True)
        sys.exit(2)
    except Unready as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except Undelivered as error:
        click.echo(f"error: the broker did not answer: {error}", err=True)
        sys.exit(1)
