"""The command line: all commands, and what an error ends with."""

import sys

import click

from agent import __version__
from agent.cli.bench import bench
from agent.cli.broker import broker
from agent.cli.calibrate import calibrate
from agent.cli.check import check
from agent.cli.demo import demo
from agent.cli.doctor import doctor
from agent.cli.egress import egress
from agent.cli.erase import erase
from agent.cli.eval import eval_
from agent.cli.fleet import fleet
from agent.cli.options import coloured
from agent.cli.run import run
from agent.cli.tap import tap
from agent.cli.top import top
from agent.cli.train import train
from agent.cli.try_ import try_
from agent.core.errors import ConfigError, Undelivered, Unready

COMMANDS = (
    bench,
    broker,
    calibrate,
    check,
    demo,
    doctor,
    egress,
    erase,
    eval_,
    fleet,
    run,
    tap,
    top,
    train,
    try_,
)


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


for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Entry point; an error that somebody can mend is one line and status 2."""
    try:
        cli(color=None if coloured() else False)
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
