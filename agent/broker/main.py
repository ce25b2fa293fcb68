"""The broker's process: one service after another, a new one after each reload."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from agent.broker import reply_store
from agent.broker.plan import BrokerSetup, prepare
from agent.broker.service import BrokerService
from agent.core.errors import ConfigError, Unready
from agent.core.log import hash_ids, set_level
from agent.core.ownership import Ownership
from agent.core.systemd import notify
from agent.daemon.supervise import Supervision, one_after_another, signals
from agent.outbox import answers, spending
from agent.outbox.store import Failed, Full, Store

TABLES = f"{reply_store.SCHEMA}\n{answers.SCHEMA}\n{spending.SCHEMA}"
SCHEMA = f"{TABLES}\nPRAGMA user_version = 1;"

log = structlog.get_logger()


class BrokerProcess:
    """Owns what one broker leaves to the next."""

    def __init__(self, path: Path | None) -> None:
        """`path` is that of broker.toml."""
        self.supervision = Supervision()
        self.ownership = Ownership()
        self._path = path
        self._last: BrokerSetup | None = None

    async def run(self, plan: BrokerSetup) -> BrokerSetup | None:
        """Run a broker; return what takes over. Raises ConfigError and Unready."""
        set_level(plan.file.log.level)
        hash_ids(wanted=plan.file.log.ids == "hash")
        self.ownership.take(plan.file.state.dir)
        store = _opened(plan)
        if self._last:
            notify(f"READY=1\nSTATUS=connecting to {plan.cases.url}")
        try:
            since = await store.read(reply_store.latest)
            anew = partial(prepare, self._path)
            service = BrokerService(plan, store, since, self.supervision, anew)
            return await service.life.serve(service)
        finally:
            store.close()
            self._last = plan

    def instead(self, _plan: BrokerSetup, error: ConfigError | Unready) -> BrokerSetup:
        """Return what ran before; raise the error where nothing did."""
        if self._last is None:
            raise error
        log.error("reload_refused", why=str(error))
        before, self._last = self._last, None
        return replace(before, refused=str(error))


async def run(path: Path | None) -> None:
    """Run a broker until it is told to stop; raises ConfigError, Unready."""
    process = BrokerProcess(path)
    with signals(process.supervision), process.ownership:
        await one_after_another(
            process.supervision, partial(prepare, path), process.run, process.instead
        )


def _opened(plan: BrokerSetup) -> Store:
    """Open the store; raises ConfigError, Unready."""
    state = plan.file.state.dir / "broker.db"
    try:
        store = Store(state, SCHEMA, plan.file.broker.max_bytes)
    except OSError as error:
        raise ConfigError(f"state.dir: {state}: {error}") from error
    except (Full, Failed) as error:
        raise Unready(f"the store does not open, free some room? {error}") from error
    if store.set_aside:
        log.error("damaged_store", kept_as=str(store.set_aside))
    return store
