"""The broker's process: one service after another, a new one after each reload."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from agent.broker import reply_store
from agent.broker.plan import BrokerSetup, prepare
from agent.broker.service import Service
from agent.core.errors import ConfigError, Unready
from agent.core.log import set_level
from agent.core.systemd import notify
from agent.daemon.supervise import Supervision, give_back_memory, signals
from agent.outbox import answers, spending
from agent.outbox.store import Failed, Full, Store

TABLES = f"{reply_store.SCHEMA}\n{answers.SCHEMA}\n{spending.SCHEMA}"
SCHEMA = f"{TABLES}\nPRAGMA user_version = 1;"

log = structlog.get_logger()


async def run(path: Path | None) -> None:
    """Run a broker until it is told to stop; raises ConfigError, Unready."""
    supervision = Supervision()
    last: BrokerSetup | None = None
    with signals(supervision):
        following: BrokerSetup | None = prepare(path)
        while following and not supervision.stop.is_set():
            plan = following
            set_level(plan.file.log.level)
            try:
                store = _opened(plan)
            except (ConfigError, Unready) as error:
                if last is None:
                    raise
                log.error("reload_refused", why=str(error))  # noqa: TRY400
                following, last = replace(last, refused=str(error)), None
                continue
            if last:
                notify(f"READY=1\nSTATUS=connecting to {plan.cases.url}")
            try:
                since = await store.read(reply_store.latest)
                service = Service(
                    plan, store, since, supervision, partial(prepare, path)
                )
                following = await service.run()
                del service
            finally:
                store.close()
            last = plan
            give_back_memory()


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
