"""What a disk, a copy or another program makes of a state file."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path, random.Random], None]
HUGE = 2**34  # bytes; sparse, so that no disk is needed


def _bytes(change: Callable[[bytes, random.Random], bytes]) -> Damage:
    def damage(path: Path, chance: random.Random) -> None:
        path.write_bytes(change(path.read_bytes(), chance))

    return damage


def _flipped(data: bytes, chance: random.Random) -> bytes:
    spoilt = bytearray(data)
    for _ in range(chance.choice([1, 1, 3, 30])):
        spoilt[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(spoilt)


def _zeroed(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    end = min(len(data), start + chance.choice([16, 512, 4096]))
    return data[:start] + bytes(end - start) + data[end:]


def _huge(path: Path, _chance: random.Random) -> None:
    os.truncate(path, HUGE)


def _folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()
    if chance.random() < 0.5:
        (path / "file").write_bytes(b"x")


def _pipe(path: Path, _chance: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _loop(path: Path, _chance: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _nowhere(path: Path, _chance: random.Random) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _forbidden(path: Path, _chance: random.Random) -> None:
    path.chmod(0)


NESTED = 100_000
OTHERS = [
    b"null",
    b"[]",
    b"{}",
    b'"x"',
    b"[1, 2]",
    b'{"a": 1}',
    b'{"a": {"b": 1}}',
    b"\n",
    b'{"zigbee2mqtt/lamp/set": {}}',
    b"\xff\xfe\n",
    b"a\x01b\n",
    b"+a\n",
    b"1e999",
    b'{"a/device/slm_pi/config": []}',
    b"SQLite format 3\x00",
    b"%PDF-1.7\n",
]
DAMAGES: dict[str, Damage] = {
    "truncated": _bytes(lambda data, chance: data[: chance.randrange(len(data))]),
    "empty": _bytes(lambda _data, _chance: b""),
    "zeros": _bytes(lambda data, _chance: bytes(len(data))),
    "zeros inside": _bytes(_zeroed),
    "random": _bytes(lambda data, chance: chance.randbytes(len(data))),
    "flipped": _bytes(_flipped),
    "twice": _bytes(lambda data, _chance: data + data),
    "deep list": _bytes(lambda _data, _chance: b"[" * NESTED),
    "deep object": _bytes(lambda _data, _chance: b'{"a":' * NESTED),
    "another": _bytes(lambda _data, chance: chance.choice(OTHERS)),
    "huge": _huge,
    "folder": _folder,
    "pipe": _pipe,
    "loop": _loop,
    "nowhere": _nowhere,
    "forbidden": _forbidden,
}


def remove(path: Path) -> None:
    """Remove a file, or what is in its place, and what was set aside for it."""
    for each in [path, *path.parent.glob(f"{path.name}*")]:
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink(missing_ok=True)
