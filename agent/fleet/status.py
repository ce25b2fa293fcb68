"""Where a device stands in its fleet, by what it wrote down; nothing is changed.

For commands that look at a device beside its daemon, and are to see what runs.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from agent.config.agent_file import AgentFile
from agent.config.load import DEFAULT_PATH, Config, load, read_file
from agent.core.errors import ConfigError
from agent.core.files import exists
from agent.core.quarantine import Damaged
from agent.fleet.parse import read
from agent.fleet.resolve import Resolver, check_pins, read_local
from agent.fleet.signing import Untrusted
from agent.fleet.state import FOLDER, RolloutState, StateStore, Status

WORDS: dict[Status, str] = {
    "held": "held back",
    "refused": "refused",
    "probation": "on probation",
    "rolled_back": "rolled back",
}
NAME = "the fleet's file"  # in errors


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The configuration that counts, and what the fleet has to do with it.

    `state` None: there is no fleet, or nobody asked. `problem` says why the device's
    own files count all the same.
    """

    config: Config
    state: RolloutState | None = None
    problem: str = ""

    @property
    def is_well(self) -> bool:
        """Whether the device does what the fleet wants, as far as it is its turn."""
        awry = self.state is not None and self.state.status in {
            "refused",
            "rolled_back",
        }
        return not (awry or self.problem)

    def __str__(self) -> str:
        """Say it in one line."""
        state = self.state or RolloutState()
        if self.problem:
            text = f"{self.problem}; the device's own files count"
        elif state.applied:
            text = f"version {state.applied.version} is applied"
        else:
            text = "no version is applied, the device's own files count"
        if state.status not in WORDS:
            return text
        desired = f"version {state.desired.version}" if state.desired else "a version"
        why = f": {'; '.join(state.reason.splitlines())}" if state.reason else ""
        return f"{text}; {desired} is {WORDS[state.status]}{why}"


def fleet_status(
    path: Path | None, pipeline: str = "", *, own: bool = False
) -> FleetStatus:
    """Return what counts on this device; raises ConfigError for its own files.

    `path` is that of agent.toml; `pipeline` wants that one alone, whether it runs or
    not; `own` leaves the fleet out.
    """
    place = path or (DEFAULT_PATH if exists(DEFAULT_PATH) else None)
    agent = read_file(AgentFile, place) if place else AgentFile()
    if own or agent.fleet is None:
        return FleetStatus(load(path, (pipeline,) if pipeline else ()))
    state, config, problem = _applied(agent, place)
    if config and pipeline in config.pipelines:
        only = {pipeline: config.pipelines[pipeline]}
        return FleetStatus(replace(config, pipelines=only), state)
    if pipeline:
        problem = problem or (
            f"the fleet does not run {pipeline} here" if config else ""
        )
        return FleetStatus(load(path, (pipeline,)), state, problem)
    files = load(path)  # fit to run, whatever the fleet says: the daemon asks it, too
    return FleetStatus(config or files, state, problem)


def _applied(
    agent: AgentFile, place: Path | None
) -> tuple[RolloutState, Config | None, str]:
    """Return what the device remembers, what runs by it, and why that cannot be."""
    folder = agent.state.dir / FOLDER
    store = StateStore(folder)
    try:
        state = store.read()
    except Damaged as error:
        return RolloutState(), None, str(error)
    if state.applied is None:
        return state, None, ""
    try:
        fleet = read(store.content(state.applied), NAME)
        effective = Resolver(fleet).resolve(read_local(place))
        check_pins(effective)
    except (ConfigError, Untrusted) as error:
        why = "; ".join(str(error).splitlines())
        return state, None, f"version {state.applied.version} cannot be used: {why}"
    return state, effective.config, ""
