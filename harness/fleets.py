"""Fleets for tests: files, keys and devices, as small as they can be."""

import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.fleet.parse import Fleet, read
from agent.fleet.resolve import Effective, Resolver, stand_in
from agent.fleet.signing import Content, public_keys, sign, write_keys

NAME = "fleet.toml"
# Of hundreds of devices, as `inventory` lists them.
TOML = """
version = 7
devices_file = "devices.jsonl"
enable = ["home"]
[variables]
root = "plant/${label.site}/${line}"
[agent.mqtt]
url = "mqtt://broker.example"
[pipelines.home.input]
topics = ["${root}/+/note"]
[[layer]]
name = "perth"
select = { site = "perth" }
agent.log.level = "warning"
[[layer]]
name = "lab"
select = { room = ["r0", "r1"] }
over = ["perth"]
agent.log.level = "debug"
"""


def fleet(toml: str, devices: str | None = None) -> Fleet:
    """Return a fleet file of version 1, read; raises ConfigError."""
    listed = None if devices is None else devices.encode()
    version = "" if "version =" in toml else "version = 1\n"
    return read(Content((version + toml).encode(), listed), NAME)


def resolve(toml: str, device: str = "pi-1") -> Effective:
    """Return what a fleet file makes of a device; raises ConfigError."""
    return Resolver(fleet(toml)).resolve(stand_in(device))


def origins(effective: Effective) -> dict[str, str]:
    """Return where each value comes from that is not by default."""
    return {
        ".".join(key): leaf.where
        for key, leaf in effective.rows().items()
        if leaf.origin != "default"
    }


def inventory(count: int) -> str:
    """Return a list of devices as JSON Lines, spread over four sites of ten rooms."""
    sites = ("perth", "oslo", "lima", "kyoto")
    return "".join(
        json.dumps(
            {
                "id": f"pi-{number}",
                "labels": {
                    "site": sites[number % len(sites)],
                    "room": f"r{number % 10}",
                },
                "variables": {"line": f"line-{number}"},
            }
        )
        + "\n"
        for number in range(count)
    )


class Keys:
    """A pair of keys in a folder."""

    def __init__(self, folder: Path, name: str = "ours") -> None:
        """Make them."""
        self.private = folder / f"{name}.key"
        self.public = folder / f"{name}.pub"
        self.id = write_keys(self.private, self.public)

    @property
    def known(self) -> dict[str, Ed25519PublicKey]:
        """What a device knows that believes them."""
        return public_keys([self.public])

    def signed(self, toml: str, devices: str | None = None) -> bytes:
        """Return a signed fleet file."""
        listed = None if devices is None else devices.encode()
        return sign(Content(toml.encode(), listed), self.private.read_bytes())


def values(effective: Effective) -> dict[str, Any]:
    """Return every value by its key."""
    return {".".join(key): leaf.value for key, leaf in effective.rows().items()}
