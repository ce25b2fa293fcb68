"""What ended the process is known to the next one, whatever became of the file."""

from pathlib import Path

import pytest

from agent.core.deaths import MOST_DEATHS, SLOTS, Deaths

KEY = "a" * 32


def test_counted_until_it_ends_well(tmp_path: Path) -> None:
    """Each process that dies at it adds one, up to the most; an end forgets it."""
    path = tmp_path / "hiding.cases"
    for died in (0, 1, 2, 3, 3):
        deaths = Deaths(path)
        assert deaths.of(KEY) == min(died, MOST_DEATHS)
        deaths.begin(KEY)
    deaths.begin("b" * 32)
    deaths.end(KEY)
    assert (Deaths(path).of(KEY), Deaths(path).of("b" * 32)) == (0, 1)


def test_as_many_as_there_is_room_for(tmp_path: Path) -> None:
    """The newest are kept."""
    path = tmp_path / "hiding.cases"
    for number in range(SLOTS + 1):
        Deaths(path).begin(f"{number:032}")
    counts = [Deaths(path).of(f"{number:032}") for number in range(SLOTS + 1)]
    assert counts == [0] + [1] * SLOTS


@pytest.mark.parametrize("damage", [b"\xff" * 33, b"x" * 5, b"y" * 100_000, None])
def test_whatever_is_in_its_place(tmp_path: Path, damage: bytes | None) -> None:
    """A damaged file counts nothing, and the next count is right."""
    path = tmp_path / "hiding.cases"
    if damage is None:
        path.mkdir()
    else:
        path.write_bytes(damage)
    deaths = Deaths(path)
    assert deaths.of(KEY) == 0
    deaths.begin(KEY)
    assert Deaths(path).of(KEY) == 1


def test_where_nothing_can_be_written() -> None:
    """It counts for this process alone."""
    deaths = Deaths(Path("/nowhere/at/all"))
    deaths.begin(KEY)
    assert deaths.of(KEY) == 1
