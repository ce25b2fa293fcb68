"""After `device.id` changed: what is retained under the old name goes.

Else dashboards would show, for ever, a device that is no longer there.
"""

from pathlib import Path

import structlog
from pydantic import TypeAdapter

from agent.config.section import Name
from agent.core.errors import Refused
from agent.core.files import replace
from agent.core.quarantine import Damaged, read_state, without
from agent.mqtt.connection import Connection
from agent.protocol.messages import Topics
from agent.telemetry.alerts import NAMES, Alerts

FILE = "device"  # the name we had last, below state.dir
LONGEST = 1024  # bytes
NAME: TypeAdapter[str] = TypeAdapter(Name)

log = structlog.get_logger()


async def clear_old_name(
    connection: Connection, folder: Path, device: str, alerts: Alerts
) -> None:
    """Empty what is retained under another name than `device`; raises Undelivered."""
    try:
        old = _name(folder)
    except Damaged as error:
        alerts.state_damaged(without(folder / FILE, str(error)))
        old = ""
    if old == device:
        return
    if old:
        log.info("renamed", old=old, device=device)
        await _clear(connection, Topics(old))
    try:
        replace(folder / FILE, f"{device}\n".encode())
    except OSError as error:
        log.warning("name_not_written_down", why=str(error))


async def _clear(connection: Connection, old: Topics) -> None:
    alerts = [old.alert(name) for name in NAMES]
    for topic in (old.status, old.birth, old.health, old.fleet, *alerts):
        try:
            await (await connection.publish(topic, b"", retain=True))
        except Refused as error:  # the access list may know our new name only
            log.warning("old_name_not_cleared", topic=topic, why=str(error))


def _name(folder: Path) -> str:
    """Return the name that is written down, if any; raises Damaged."""
    path = folder / FILE
    data = read_state(path, LONGEST)
    if data is None:
        return ""
    try:
        return NAME.validate_python(data.decode().removesuffix("\n"))
    except ValueError:
        raise Damaged(f"{path}: holds no name of a device") from None
