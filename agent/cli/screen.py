"""A terminal as a screen of lines, of which only those that changed are written."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # xterm's other screen
CLEAR = "\x1b[2J"
KEYS = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[H": "home",
    "\x1b[F": "end",
    "\x1b": "escape",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
}


class Screen:
    """Owns what a terminal shows."""

    def __init__(self, out: TextIO) -> None:
        """`out` is a terminal."""
        self._out = out
        self._shown: list[str] = []
        self._size = os.terminal_size((0, 0))

    @property
    def size(self) -> os.terminal_size:
        """Columns and lines."""
        try:
            return os.get_terminal_size(self._out.fileno())
        except OSError:
            return os.terminal_size((80, 24))

    def show(self, lines: Sequence[str]) -> None:
        """Write the lines that are others than before; as many as there is room for."""
        size = self.size
        parts = []
        if size != self._size:
            self._size, self._shown = size, []
            parts.append(CLEAR)
        wanted = list(lines[: size.lines])
        before = self._shown + [""] * (len(wanted) - len(self._shown))
        gone = [""] * (len(before) - len(wanted))
        for number, line in enumerate([*wanted, *gone]):
            if line != before[number]:
                parts.append(f"\x1b[{number + 1};1H{line}\x1b[K")
        self._shown = wanted
        if parts:
            self._out.write("".join(parts))
            self._out.flush()


@contextmanager
def full_screen(out: TextIO) -> Iterator[Screen]:
    """Take the whole terminal, and give it back as it was."""
    out.write(ENTER)
    try:
        yield Screen(out)
    finally:
        out.write(LEAVE)
        out.flush()


@contextmanager
def keys(on_key: Callable[[str], None]) -> Iterator[None]:
    """Call `on_key` with each key that is pressed, by its name or its character.

    Where standard input is no terminal nothing is read.
    """
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def read() -> None:
        for key in split(os.read(descriptor, 1024).decode("utf-8", "replace")):
            on_key(key)

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def split(typed: str) -> Iterator[str]:
    """Yield the keys in what a terminal sent."""
    while typed:
        length = next((n for n in (4, 3) if typed[:n] in KEYS), 1)
        yield KEYS.get(typed[:length], typed[0])
        typed = typed[length:]
