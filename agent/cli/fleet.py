"""`slm-agent fleet`: from a file on a desk to hundreds of devices."""

import asyncio
import json
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.findings import print_finding
from agent.core.errors import ConfigError
from agent.core.files import read_bytes, replace

if TYPE_CHECKING:
    from agent.fleet.diff import Change, DiffReport

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)
JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
MODELS = click.option(
    "--models",
    type=FOLDER,
    metavar="DIR",
    help="Folder of bundles, to compare pins with.",
)
SIGNED = ".signed.json"


@click.group()
def fleet() -> None:
    """Configure a fleet of devices with one signed file.

    \b
    First steps:
      slm-agent fleet keygen ours                       a pair of keys
      slm-agent fleet check fleet.toml                  what every device makes of it
      slm-agent fleet show fleet.toml --device pi-3     ... one device, value by value
      slm-agent fleet diff old.toml fleet.toml          whom a change concerns
      slm-agent fleet sign fleet.toml --key ours.key    makes fleet.signed.json
      slm-agent fleet push fleet.signed.json --url mqtt://broker

    Wherever a fleet file is read, a signed one will do. docs/fleet.md has a whole
    example.
    """  # noqa: D301  \b is click's mark of a paragraph to leave as it is


@fleet.command()
@click.argument("name", type=FILE)
def keygen(name: Path) -> None:
    """Make NAME.key, to sign with, and NAME.pub, for the devices.

    Whoever has NAME.key decides what your devices do: keep it off them. NAME.pub goes
    to fleet.public_key_files in each device's agent.toml.
    """
    from agent.fleet.signing import write_keys

    private, public = Path(f"{name}.key"), Path(f"{name}.pub")
    key = write_keys(private, public)
    click.echo(f"{private}, {public}: key {key}")


@fleet.command()
@click.argument("file", type=FILE)
@MODELS
@JSON
def check(file: Path, models: Path | None, *, as_json: bool) -> None:
    """Resolve every device of FILE, and say what is wrong or doubtful.

    Exit status 2 if anything is wrong.
    """
    from agent.fleet.checks import check as findings
    from agent.fleet.checks import worst
    from agent.fleet.parse import read_path

    report = findings(read_path(file), models)
    for finding in report:
        print_finding(finding, as_json=as_json)
    if worst(report):
        sys.exit(2)


@fleet.command()
@click.argument("file", type=FILE)
@click.option("--device", required=True, metavar="ID", help="The device.")
@click.option(
    "--config",
    type=FILE,
    metavar="FILE",
    help="The device's own agent.toml; without it, an empty one is assumed.",
)
@click.option("--brief", is_flag=True, help="Leave out what is by default.")
@JSON
def show(
    file: Path, device: str, config: Path | None, *, brief: bool, as_json: bool
) -> None:
    """Show the configuration that FILE gives to a device, and where each value is from.

    Later wins: default, local or shipped (the device's own files), base (the top level
    of FILE), its layers in their order, device (its entry).
    """
    from agent.cli.tables import show as show_table
    from agent.fleet.parse import read_path
    from agent.fleet.resolve import Resolver, read_local, stand_in
    from agent.fleet.values import dotted

    read = read_path(file)
    local = read_local(config) if config else stand_in(device)
    if local.id != device:
        raise ConfigError(f"{config}: is of the device {local.id!r}, not {device!r}")
    effective = Resolver(read).resolve(local)
    labels = effective.config.agent.device.labels
    rows = {
        dotted(key): leaf
        for key, leaf in effective.rows().items()
        if not (brief and leaf.origin == "default")
    }
    if as_json:
        document = {
            "device": device,
            "version": read.version,
            "takes_it": read.takes(device, labels),
            "values": {
                key: {"value": leaf.value, "origin": leaf.origin, "used": leaf.used}
                for key, leaf in rows.items()
            },
        }
        click.echo(json.dumps(document, ensure_ascii=False))
        return
    if not read.takes(device, labels):
        click.echo(f"{device} does not take version {read.version} yet", err=True)
    show_table(
        ("key", "value", "origin"),
        [(key, _text(leaf.value), leaf.where) for key, leaf in rows.items()],
    )


@fleet.command()
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@JSON
def diff(old: Path, new: Path, *, as_json: bool) -> None:
    """Show which devices NEW changes against OLD, what, and how many of them now."""
    from agent.fleet.diff import diff_report
    from agent.fleet.parse import read_path

    report = diff_report(read_path(old), read_path(new))
    if as_json:
        click.echo(json.dumps(_radius_object(report), ensure_ascii=False))
        return
    if report.new_version <= report.old_version:
        click.echo(
            f"warning: version {report.new_version} is not larger than "
            f"{report.old_version}: no device would take it",
            err=True,
        )
    click.echo(
        f"version {report.old_version} -> {report.new_version}: changes "
        f"{report.changed} of {report.devices} devices, {report.now} of them now"
    )
    for group in report.alike:
        now = f", now {len(group.now)}" if len(group.now) < len(group.devices) else ""
        click.echo(f"\n{_count(group.devices)}{now}: {_few(group.devices)}")
        for change in group.changes:
            click.echo(f"  {_change_text(change)}")
    for what, devices in (("added", report.added), ("removed", report.removed)):
        if devices:
            click.echo(f"\n{what}: {_count(devices)}: {_few(devices)}")
    for device, why in report.broken.items():
        click.echo(click.style(f"broken: {device}: {why}", fg="red"))
    if report.broken:
        sys.exit(2)


def _change_text(change: "Change") -> str:
    mark = click.style("  could cut the device off", fg="red") if change.risky else ""
    return (
        f"{change.key}: {_text(change.old)} -> {_text(change.new)}  "
        f"({change.origin}){mark}"
    )


def _count(devices: tuple[str, ...]) -> str:
    return f"{len(devices)} device{'' if len(devices) == 1 else 's'}"


def _few(devices: tuple[str, ...], most: int = 5) -> str:
    more = f" and {len(devices) - most} more" if len(devices) > most else ""
    return ", ".join(devices[:most]) + more


def _radius_object(report: "DiffReport") -> dict[str, Any]:
    return {
        "old_version": report.old_version,
        "new_version": report.new_version,
        "devices": report.devices,
        "changed": report.changed,
        "now": report.now,
        "alike": [
            {
                "devices": group.devices,
                "now": group.now,
                "changes": [
                    {
                        "key": change.key,
                        "old": change.old,
                        "new": change.new,
                        "origin": change.origin,
                        "risky": change.risky,
                    }
                    for change in group.changes
                ],
            }
            for group in report.alike
        ],
        "added": report.added,
        "removed": report.removed,
        "broken": dict(report.broken),
    }


@fleet.command()
@click.argument("file", type=FILE)
@click.option("--key", type=FILE, required=True, metavar="FILE", help="Private key.")
@click.option("--out", type=FILE, metavar="FILE", help="Default: FILE.signed.json.")
@MODELS
def sign(file: Path, key: Path, out: Path | None, models: Path | None) -> None:
    """Check FILE and sign it; its version must be larger than that of OUT before.

    The signed file carries everything: FILE as it is, and its list of devices.
    """
    from agent.fleet import signing
    from agent.fleet.checks import check as findings
    from agent.fleet.parse import read_path

    read = read_path(file)
    content = read.content
    wrong = [
        f"{file}: {finding.subject}: {finding.detail}"
        + (f" ({finding.about})" if finding.about else "")
        for finding in findings(read, models)
        if finding.level == "error"
    ]
    if wrong:
        raise ConfigError("\n".join(wrong))
    place = out or file.with_suffix(SIGNED)
    if place.exists():
        before = read_path(place)
        if before.content.digest != content.digest and before.version >= read.version:
            raise ConfigError(
                f"{place}: version {before.version} is signed already, and "
                f"{read.version} is not larger: devices would refuse it"
            )
    signed = signing.sign(content, read_bytes(key))
    try:
        replace(place, signed + b"\n")
    except OSError as error:
        raise ConfigError(f"{place}: {error.strerror or error}") from error
    click.echo(f"{place}: version {read.version}, {len(signed)} bytes")


@fleet.command()
@click.argument("signed", type=FILE)
@click.option(
    "--config",
    type=FILE,
    metavar="FILE",
    help="An agent.toml whose [mqtt] leads to the broker.",
)
@click.option("--url", metavar="URL", help="The broker, mqtt://host[:port].")
@click.option(
    "--topic",
    metavar="TOPIC",
    help="Default: fleet.topic of the config, else slm/fleet.",
)
@click.option(
    "--public-key",
    "public_keys",
    type=FILE,
    multiple=True,
    metavar="FILE",
    help="Refuse what was not signed with it. Default: fleet.public_key_files.",
)
@click.option(
    "--force", is_flag=True, help="Whatever is there; it is not even looked at."
)
def push(
    signed: Path,
    config: Path | None,
    url: str | None,
    topic: str | None,
    public_keys: tuple[Path, ...],
    *,
    force: bool,
) -> None:
    """Publish SIGNED as a retained message: devices take it when they come.

    How they fare stands in slm/<device>/fleet. A newer version that is there already
    is not replaced.
    """
    from agent.cli.fleet_push import check_newer
    from agent.config.agent_file import AgentFile, FleetSection
    from agent.config.checks import check_tls
    from agent.config.load import Config, read_file
    from agent.daemon.endpoint import endpoint
    from agent.fleet import signing
    from agent.fleet.parse import read_path
    from agent.mqtt.side_connection import publish_aside

    agent = read_file(AgentFile, config) if config else AgentFile()
    changes: dict[str, Any] = {"client_id": f"slm-fleet-{secrets.token_hex(4)}"}
    if url is not None:
        changes["url"] = _checked_url(url)
    mqtt = agent.mqtt.model_copy(update=changes)
    check_tls(mqtt, config or Path("--url"))
    section = agent.fleet
    place = topic or (section.topic if section else "")
    place = place or str(FleetSection.model_fields["topic"].default)
    data = read_bytes(signed)
    files = public_keys or (section.public_key_files if section else ())
    keys = signing.public_keys(files)
    read = read_path(signed)
    if keys:
        try:
            signing.verified(data, keys)
        except signing.Untrusted as error:
            raise ConfigError(f"{signed}: {error}") from error
    elif not data.startswith(b"{"):
        raise ConfigError(f"{signed}: is not signed; slm-agent fleet sign")
    whole = Config(agent.model_copy(update={"mqtt": mqtt}), {}, "")
    if not force:
        asyncio.run(check_newer(whole, place, read, keys))
    asyncio.run(publish_aside(endpoint(whole), place, data.rstrip()))
    click.echo(f"{place} on {mqtt.url}: version {read.version}, retained")


def _checked_url(url: str) -> str:
    from pydantic import ValidationError

    from agent.config.agent_file import Mqtt
    from agent.core.explain import explain

    try:
        return Mqtt.model_validate({"url": url}).url
    except ValidationError as error:
        raise ConfigError(f"--{explain(Mqtt, error)[0]}") from error


def _text(value: Any) -> str:
    return "-" if value is None else json.dumps(value, ensure_ascii=False)
