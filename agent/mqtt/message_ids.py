"""Message ids that a redelivery gets again, even after `kill -9`.

MQTT names an unacknowledged message by its packet identifier, which the broker must
reuse when it sends the message again (MQTT 5, 4.4). This table remembers, for each of
the 65,535 identifiers, the id we made and a hash of the message. It is a shared memory
map: the kernel keeps it when the process dies, and nothing is synced, so that an SD
card sees at most a page now and then (none if the file lies in a RuntimeDirectory).
After a power cut the table may be gone; then a redelivery gets a new id.

Behind the ids the table counts, for each of them, how often the process died while the
message was worked on. A message that ends the process comes again with the next one.
"""

import errno
import hashlib
import mmap
import os
import stat
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.core.quarantine import without

SLOT = struct.Struct("<8s16sd")  # hash, id, acknowledged at (Unix time; 0: not)
SLOTS = 65_536
DEATHS = SLOTS * SLOT.size  # where the counts begin, one byte each
# What is in the place of the file cannot be the table.
DAMAGE = {errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO}
ID_LIMIT = 256
MOST_COUNTED = 255
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_ulid() -> bytes:
    """Return 16 bytes (ULID): 48 bits of Unix milliseconds, then 80 random bits."""
    return int(time.time() * 1000).to_bytes(6, "big") + os.urandom(10)


def ulid_text(ulid: bytes) -> str:
    """Return a ULID as its 26 characters of Crockford base 32."""
    number = int.from_bytes(ulid, "big")
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def checked_id(candidate: str) -> str | None:
    """Return a producer's id if it can serve as one: printable, 1 to 256 characters."""
    fit = 0 < len(candidate) <= ID_LIMIT and candidate.isprintable()
    return candidate if fit else None


class IdTable:
    """Ids of the messages in flight, by packet identifier."""

    def __init__(self, path: Path, lost_ack_s: float = 120.0) -> None:
        """Open or create the table.

        `lost_ack_s`: an acknowledgement given no longer than this before its connection
        ended may be lost with it; then a redelivery is the same message. What is no
        table is set aside; `damage` says so. Raises OSError.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lost_ack_s = lost_ack_s
        self.damage = ""
        size = DEATHS + SLOTS
        try:
            descriptor = _open(path)
        except OSError as error:
            if error.errno not in DAMAGE:
                raise
            self.damage = without(path, f"{path}: {error.strerror}")
            descriptor = _open(path)
        try:
            before = os.fstat(descriptor).st_size
            if before != size:
                if before != DEATHS:  # 0.x counted nothing, and its ids are good
                    os.ftruncate(descriptor, 0)
                os.ftruncate(descriptor, size)
                # A sparse page without room on the disk would be fatal (SIGBUS) later.
                os.posix_fallocate(descriptor, 0, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        """Return the table."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unmap the file."""
        self._map.close()

    def name(self, mid: int, *, redelivered: bool, topic: str, payload: bytes) -> str:
        """Return the id of the message with packet identifier `mid` (1 to 65,535).

        A redelivery of the same bytes gets the id of its first delivery.
        """
        digest = _digest(topic, payload)
        known, ulid, acked_at = SLOT.unpack_from(self._map, mid * SLOT.size)
        unacked = acked_at == 0 or self._may_be_lost(acked_at)
        if redelivered and known == digest and unacked:
            return ulid_text(ulid)
        # A broker may send a message again and not say so: the count stays with it.
        if known != digest or not unacked:
            self._map[DEATHS + mid] = 0
        fresh = new_ulid()
        SLOT.pack_into(self._map, mid * SLOT.size, digest, fresh, 0.0)
        return ulid_text(fresh)

    def deaths(self, mid: int) -> int:
        """Return how often the process died at work on the message `mid`."""
        return self._map[DEATHS + mid]

    def begin(self, mid: int) -> None:
        """Note that work on `mid` begins: if no `end` follows, the process died."""
        self._map[DEATHS + mid] = min(self._map[DEATHS + mid] + 1, MOST_COUNTED)

    def end(self, mid: int) -> None:
        """Note that work on `mid` is over, and the process is there."""
        self._map[DEATHS + mid] = 0

    def acknowledged(self, mid: int) -> None:
        """Note that we acknowledged `mid`; its id soon is nobody's."""
        known, ulid, _ = SLOT.unpack_from(self._map, mid * SLOT.size)
        SLOT.pack_into(self._map, mid * SLOT.size, known, ulid, time.time())
        self.end(mid)

    def connection_ended(self) -> None:
        """Note when; no packet has identifier 0, so its slot is free for it."""
        SLOT.pack_into(self._map, 0, b"", b"", time.time())

    def _may_be_lost(self, acked_at: float) -> bool:
        _, _, ended_at = SLOT.unpack_from(self._map, 0)
        end = ended_at if ended_at >= acked_at else time.time()  # killed: just now
        return bool(abs(end - acked_at) <= self._lost_ack_s)


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EISDIR, "is no file")
    return descriptor


def _digest(topic: str, payload: bytes) -> bytes:
    digest = hashlib.blake2b(topic.encode(), digest_size=8)
    digest.update(b"\0")
    digest.update(payload)
    return digest.digest()
