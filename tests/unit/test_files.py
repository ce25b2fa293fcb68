"""Files: one error for what cannot be read, and replaced whole or not at all."""

import os
from pathlib import Path

import pytest

from agent.core.errors import BundleError, ConfigError
from agent.core.files import exists, first_line, read_bytes, replace, replacing


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"hunter2", "hunter2"),
        (b"hunter2\n", "hunter2"),
        (b"hunter2\r\nnotes", "hunter2"),
        (b" two words \nnotes", " two words "),
        ("a\u2028b\x0bc\n".encode(), "a\u2028b\x0bc"),
    ],
)
def test_the_first_line(tmp_path: Path, content: bytes, line: str) -> None:
    """Only what ends the line is taken off: a space may belong to a password."""
    path = tmp_path / "secret"
    path.write_bytes(content)
    assert first_line(path, "mqtt.password_file") == line


@pytest.mark.parametrize(
    "content", [b"", b"\nhunter2", b"  \n", b"\xff", b"a\0b", None]
)
def test_no_first_line(tmp_path: Path, content: bytes | None) -> None:
    """Where there is none, the error names key and file and nothing of the content."""
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        first_line(path, "mqtt.password_file")
    assert str(caught.value).startswith(f"mqtt.password_file: {path}: ")
    assert "hunter2" not in str(caught.value).removeprefix(
        f"mqtt.password_file: {path}"
    )


@pytest.mark.parametrize("name", ["none", "a\0b", "x" * 300, "file/below"])
def test_unreadable(tmp_path: Path, name: str) -> None:
    """A path that leads nowhere, or cannot be one, is the operator's error."""
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"^/"):
        read_bytes(tmp_path / name, BundleError)


def test_whether_a_file_is_there(tmp_path: Path) -> None:
    """What cannot be a path is an error; what is not there is not."""
    assert exists(tmp_path)
    assert not exists(tmp_path / "none")
    assert not exists(tmp_path / "none" / "none")
    for name in ("a\0b", "x" * 300):
        with pytest.raises(ConfigError):
            exists(tmp_path / name)


def test_a_file_is_replaced_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File and folder are on the disk before anybody relies on them."""
    synced = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "new" / "file"
    replace(path, b"one")
    replace(path, b"two")
    assert path.read_bytes() == b"two"
    assert synced == [f"{path}.new", str(path.parent)] * 2
    assert list(path.parent.iterdir()) == [path]


def test_what_is_there_stays_if_the_writing_fails(tmp_path: Path) -> None:
    """Half a file never stands in place of a whole one."""
    path = tmp_path / "file"
    replace(path, b"whole")

    def break_off() -> None:
        with replacing(path) as file:
            file.write(b"half" * 100_000)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert path.read_bytes() == b"whole"
