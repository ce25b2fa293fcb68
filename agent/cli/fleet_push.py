"""What a fleet file that is pushed would replace."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agent.cli.listening import listening
from agent.config.load import Config
from agent.core.errors import ConfigError
from agent.fleet import signing
from agent.fleet.parse import Fleet, read

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

RETAINED_S = 2.0  # what is retained comes at once


async def check_newer(
    config: Config, topic: str, new: Fleet, keys: "Mapping[str, Ed25519PublicKey]"
) -> None:
    """Refuse a file that devices would refuse after the one that the topic retains.

    Without `keys` that one is believed, whoever signed it. Raises ConfigError, and
    Undelivered where the topic cannot be seen.
    """
    there = await _retained(config, topic)
    try:
        content = signing.verified(there, keys) if keys else signing.opened(there)
    except signing.Untrusted:
        return  # nothing, or nothing that a device believes
    old = read(content, topic)
    if old.version >= new.version and old.content != new.content:
        raise ConfigError(
            f"{topic}: version {old.version} is there, and {new.version} is not newer: "
            "devices would refuse it; give it a larger version, or publish it with "
            "--force"
        )


async def _retained(config: Config, topic: str) -> bytes:
    async with listening(config, [topic]) as heard:
        try:
            async with asyncio.timeout(RETAINED_S):
                return (await heard.get()).payload
        except TimeoutError:
            return b""
