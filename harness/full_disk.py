"""A disk that others have filled to the last byte."""

from agent.outbox.store import Full


async def write(*_: object) -> None:
    """Take the place of `Store.write`."""
    raise Full("no room")
