"""Files that no device may take, offered to hundreds of them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.clock import Clock
from agent.fleet.resolve import stand_in
from agent.fleet.rollout import FleetDevice
from harness.fleets import Keys

DEVICES = 500
TOML = """
    version = {}
    unlisted = "accept"
    agent.engine.max_batch = {}
"""


def spoilt(data: bytes, field: bytes) -> bytes:
    """Return a file with another letter in a field: base64 still, and not the same."""
    place = data.index(field) + len(field) + 9
    other = b"B" if data[place : place + 1] == b"A" else b"A"
    return data[:place] + other + data[place + 1 :]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Return the fleet's keys."""
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Return keys that no device knows."""
    return Keys(tmp_path_factory.mktemp("strangers"))


@pytest.fixture(scope="module")
def devices(
    tmp_path_factory: pytest.TempPathFactory, keys: Keys
) -> dict[str, FleetDevice]:
    """Return the devices of a fleet, each running version 5, which is on probation."""
    folder = tmp_path_factory.mktemp("devices")
    good = keys.signed(TOML.format(5, 5))
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)  # no waiting for disks
        for number in range(DEVICES):
            name = f"pi-{number}"
            place: Path = folder / name
            device = FleetDevice(
                place,
                stand_in(name),
                keys.known,
                lambda _: None,
                300.0,
                Clock(),
            )
            device.begin()
            assert device.offer(good).switch
            device.switched()
            found[name] = device
    return found


def cut(data: bytes) -> bytes:
    """Return the first half, as of a download that broke off."""
    return data[: len(data) // 2]


SIGNATURE, FLEET = b'"signature":"', b'"fleet":"'
Spoil = Callable[[bytes], bytes]


@pytest.mark.parametrize(
    ("version", "spoil", "why"),
    [
        pytest.param(4, bytes, "version 4 is older than 5", id="older"),
        pytest.param(5, bytes, "version 5 was another file before", id="another"),
        pytest.param(6, cut, "damaged or truncated", id="truncated"),
        pytest.param(6, lambda _: b"", "damaged or truncated", id="empty"),
        pytest.param(6, lambda _: b"\0" * 99, "damaged or truncated", id="zeros"),
        pytest.param(
            6, lambda data: spoilt(data, FLEET), "the signature", id="content"
        ),
        pytest.param(
            6, lambda data: spoilt(data, SIGNATURE), "the signature", id="signature"
        ),
    ],
)
def test_no_device_takes_it(
    devices: dict[str, FleetDevice], keys: Keys, version: int, spoil: Spoil, why: str
) -> None:
    """Each of 500 refuses it, says why, and runs what it ran."""
    refused_by_all(devices, spoil(keys.signed(TOML.format(version, 9))), why)


def test_no_device_believes_a_stranger(
    devices: dict[str, FleetDevice], strangers: Keys
) -> None:
    """A signature of keys that nobody knows, however new the version."""
    data = strangers.signed(TOML.format(6, 9))
    refused_by_all(devices, data, f"signed with key {strangers.id!r}")


def refused_by_all(devices: dict[str, FleetDevice], data: bytes, why: str) -> None:
    """Offer a file to each device, and see that it is as before."""
    assert len(devices) == DEVICES
    for name, device in devices.items():
        outcome = device.offer(data)
        report = device.report()
        assert (outcome.status, outcome.switch) == ("refused", False), name
        assert why in (report["reason"] or ""), name
        assert (report["applied"], report["state"]) == (5, "refused")
        assert report["probation"]
        assert device.running
        assert device.running.config.agent.engine.max_batch == 5
