"""Which configuration this process runs: the own files, or a fleet's over them.

The one place that knows both; what it blocks for (files, signatures, opening bundles)
the daemon does in a thread.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from agent.config.load import DEFAULT_PATH, Config, load
from agent.core.clock import Clock
from agent.core.errors import ConfigError, refusing
from agent.core.files import exists
from agent.daemon.opened import Opened, prepare
from agent.fleet.probation import HealthSignals, Probation
from agent.fleet.resolve import Effective, read_local
from agent.fleet.rollout import FleetDevice, RolloutOutcome
from agent.fleet.signing import public_keys
from agent.fleet.state import FOLDER

log = structlog.get_logger()


class ConfigSource:
    """Owns the choice, and what a fleet's file must prove."""

    def __init__(self, path: Path | None, on_config: Callable[[Config], None]) -> None:
        """Read the own files; raises ConfigError. `path` is that of agent.toml.

        `on_config` hears of every configuration before it runs, for the log's level.
        """
        self._path = path
        self._on_config = on_config
        self._own = load(path)
        self._checked: Opened | None = None  # opened by the self-check, not yet run
        self._now = self._own
        self._probation: Probation | None = None
        self._device: FleetDevice | None = None
        section = self._own.agent.fleet
        self._section = section
        if section:
            place = path or (DEFAULT_PATH if exists(DEFAULT_PATH) else None)
            self._device = FleetDevice(
                self._own.agent.state.dir / FOLDER,
                read_local(place),
                public_keys(section.public_key_files),
                self._check,
                section.probation_s,
                Clock(),
            )

    def anew(self) -> tuple["ConfigSource", Opened]:
        """Read and open everything again; raises ConfigError, and then we go on.

        A version on probation stays so.
        """
        self.leaves()  # before it is read: an orderly end is no crash
        try:
            with refusing("the configuration"):
                fresh = ConfigSource(self._path, self._on_config)
                return fresh, fresh.begin()
        except ConfigError:
            self.stays()
            raise

    @property
    def active(self) -> bool:
        """Whether this device belongs to a fleet."""
        return self._device is not None

    @property
    def topic(self) -> str:
        """Where a fleet's file comes by; empty: nowhere."""
        return self._section.topic if self._section else ""

    @property
    def damage(self) -> str:
        """What an alert says of damaged files of the fleet; empty: there is none."""
        return self._device.damage if self._device else ""

    def begin(self) -> Opened:
        """Open what is to run first; raises ConfigError where not even that can."""
        if self._device is None:
            return self._opened(None)
        effective = self._device.begin()
        if self._section and self._section.file:
            try:
                outcome = self._device.offer(self._section.file.read_bytes())
            except OSError as error:
                log.warning("no_fleet_file", why=str(error))
            else:
                effective = outcome.effective
        return self.parts(effective)

    def parts(self, effective: Effective | None) -> Opened:
        """Open a configuration, else the last good one, else the own files.

        Raises ConfigError where not even these can be opened.
        """
        while self._device:
            try:
                return self._opened(effective)
            except ConfigError as error:
                if effective is None:
                    raise
                effective = self._device.fail(str(error)).effective
        return self._opened(effective)

    def _opened(self, effective: Effective | None) -> Opened:
        config = effective.config if effective else self._own
        checked, self._checked = self._checked, None
        parts = checked
        if parts is None or parts.config.hash != config.hash:
            parts = prepare(config)
        self._on_config(config)
        return replace(parts, values=effective.values) if effective else parts

    def _check(self, effective: Effective) -> None:
        self._checked = prepare(effective.config)

    def runs(self, parts: Opened) -> None:
        """Note that these parts run from now on."""
        self._now, self._probation = parts.config, None
        if self._device:
            self._device.switched()

    def offer(self, payload: bytes, signs: HealthSignals) -> RolloutOutcome | None:
        """Take a signed file that came by the topic; `signs`: before it."""
        if self._device is None:
            return None
        return self._device.offer(payload, alerts=signs.before)

    def judge(self, signs: HealthSignals) -> RolloutOutcome | None:
        """Say how the device does; None: there is no fleet.

        What a version has broken takes it back at once. Without a connection nobody can
        tell the rest, unless it has another way to the broker: then it is to blame.
        """
        if self._device is None:
            return None
        if self._probation is None:
            good = self._device.last_good()
            before = good.config if good else self._own
            self._probation = Probation(self._now, before, self._device.alerts)
        fault = self._probation.broke(signs)
        if fault:
            return self._device.blame(fault)
        known = signs.connected or self._probation.moved
        return self._device.judge(self._probation.spoilt(signs), known=known)

    def leaves(self) -> None:
        """Note that the current parts make room, or that the process ends."""
        if self._device:
            self._device.rest()

    def stays(self) -> None:
        """Note that the current parts go on after all."""
        if self._device:
            self._device.resume()

    def failed(self, why: str) -> Opened:
        """Go back from parts that could not be run; raises ConfigError."""
        if self._device is None or self._device.running is None:
            raise ConfigError(why)
        return self.parts(self._device.fail(why).effective)

    def report(self) -> dict[str, Any] | None:
        """Return what is said on `slm/<device>/fleet`; None: there is no fleet."""
        return self._device.report() if self._device else None

    @property
    def on_probation(self) -> bool:
        """Whether a new version must still prove itself."""
        return self._device is not None and self._device.on_probation
