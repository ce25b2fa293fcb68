"""A bad network: a TCP proxy that understands where one MQTT packet ends."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from enum import Enum, auto

CHUNK = 65_536


class Fate(Enum):
    """What becomes of a packet."""

    PASS = auto()
    DROP = auto()
    CUT = auto()  # the connection ends before the packet is passed on


class Way(Enum):
    """From whom a packet comes."""

    DEVICE = auto()
    BROKER = auto()


# Packet types (MQTT 5, 2.1.2).
CONNECT, CONNACK, PUBLISH, PUBACK = 1, 2, 3, 4
SUBSCRIBE, SUBACK, PINGREQ = 8, 9, 12
# Asked for every packet; bytes are passed on in its place.
Gate = Callable[[Way, bytes], Fate | bytes]


def kind(packet: bytes) -> int:
    """Return the type of a packet."""
    return packet[0] >> 4


def topic_of(packet: bytes) -> bytes:
    """Return the topic of a PUBLISH."""
    start = 1
    while packet[start] > 127:  # the remaining length (MQTT 5, 2.1.4)
        start += 1
    size = int.from_bytes(packet[start + 1 : start + 3], "big")
    return packet[start + 3 : start + 3 + size]


def all_pass(_way: Way, _packet: bytes) -> Fate:
    """Let everything through: a good network."""
    return Fate.PASS


def all_drop(_way: Way, _packet: bytes) -> Fate:
    """Swallow everything: connections stay open, nothing gets through."""
    return Fate.DROP


class Proxy:
    """Owns a listening socket and the connections that came by it."""

    def __init__(self, target: int) -> None:
        """`target` is the broker's port."""
        self.gate: Gate = all_pass
        self.connections = 0
        self._target = target
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self.restore()

    def restore(self) -> None:
        """Take connections (again), on the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._spawn(self._accept, self._listener)

    def cut(self) -> None:
        """Break every connection and refuse new ones."""
        if self._listener:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            self._listener.close()
            self._listener = None
        self.drop_connections()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._threads.clear()

    def drop_connections(self) -> None:
        """Break every connection; new ones are taken."""
        for pair in list(self._pairs):  # each goes from the list as it ends
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                device, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                broker = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                device.close()
                continue
            pair = (device, broker)
            for sock in pair:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs.append(pair)
            self._spawn(self._pump, pair)

    def _pump(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """Carry both ways until either ends, then close both."""
        device, broker = pair
        back = threading.Thread(target=self._carry, args=(broker, device, Way.BROKER))
        back.start()
        self._carry(device, broker, Way.DEVICE)
        back.join()
        self._pairs.remove(pair)
        device.close()
        broker.close()

    def _carry(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        with contextlib.suppress(OSError):
            for packet in _packets(source):
                fate = self.gate(way, packet)
                if fate is Fate.CUT:
                    break
                if isinstance(fate, bytes):
                    sink.sendall(fate)
                elif fate is Fate.PASS:
                    sink.sendall(packet)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _packets(source: socket.socket) -> Iterator[bytes]:
    """Split the stream into control packets (MQTT 5, 2.1)."""
    buffer = bytearray()
    while chunk := source.recv(CHUNK):
        buffer += chunk
        while size := _packet_size(buffer):
            yield bytes(buffer[:size])
            del buffer[:size]


def _packet_size(buffer: bytearray) -> int:
    """Return the size of the first packet; 0 while it is not all there."""
    length = 0
    for index, byte in enumerate(buffer[1:5]):
        length |= (byte & 127) << 7 * index
        if byte < 128:
            size = 2 + index + length
            return size if size <= len(buffer) else 0
    return 0
