"""Ids: a redelivery is the same message, anything else is not."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.mqtt.message_ids import SLOT, SLOTS, IdTable, new_ulid, ulid_text

MIDS = st.integers(1, 65_535)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IdTable]:
    """Return a table that forgets an id as soon as it is acknowledged."""
    path = tmp_path_factory.mktemp("ids") / "inflight.ids"
    with IdTable(path, lost_ack_s=-1.0) as table:
        yield table


def first(table: IdTable, mid: int, payload: bytes = b"x", topic: str = "t") -> str:
    """Return the id of a first delivery."""
    return table.name(mid, redelivered=False, topic=topic, payload=payload)


def again(table: IdTable, mid: int, payload: bytes = b"x", topic: str = "t") -> str:
    """Return the id of a redelivery."""
    return table.name(mid, redelivered=True, topic=topic, payload=payload)


@given(mid=MIDS, payload=st.binary(), topic=st.text(max_size=9))
def test_redelivery_has_the_same_id(
    table: IdTable, mid: int, payload: bytes, topic: str
) -> None:
    """As often as a message is delivered again, its id stays."""
    id_ = first(table, mid, payload, topic)
    assert again(table, mid, payload, topic) == id_
    assert again(table, mid, payload, topic) == id_


@given(mid=MIDS)
def test_first_delivery_has_a_new_id(table: IdTable, mid: int) -> None:
    """The same bytes sent as a new message are a new message."""
    assert first(table, mid) != first(table, mid)


@given(mid=MIDS, payloads=st.lists(st.binary(), min_size=2, max_size=2, unique=True))
def test_other_payload_has_a_new_id(
    table: IdTable, mid: int, payloads: list[bytes]
) -> None:
    """A redelivery we do not know, of another session say, is a new message."""
    assert first(table, mid, payloads[0]) != again(table, mid, payloads[1])


def test_other_topic_has_a_new_id(table: IdTable) -> None:
    """The same payload from another topic is another message."""
    assert first(table, 7, topic="a/b") != again(table, 7, topic="a/c")
    assert first(table, 7, b"c", "ab") != again(table, 7, b"bc", "a")


@given(mids=st.lists(MIDS, min_size=2, max_size=20, unique=True))
def test_slots_do_not_touch(table: IdTable, mids: list[int]) -> None:
    """Each packet identifier remembers its own message, up to the last one."""
    ids = {mid: first(table, mid) for mid in [*mids, 1, 65_535]}
    assert {mid: again(table, mid) for mid in ids} == ids


def test_lost_acknowledgement(tmp_path: Path) -> None:
    """Shortly after our acknowledgement the broker may not have got it: same id."""
    with IdTable(tmp_path / "ids", lost_ack_s=1000.0) as table:
        id_ = first(table, 5)
        table.acknowledged(5)
        assert again(table, 5) == id_


@pytest.mark.parametrize("outage", [0, 86_400])
def test_lost_acknowledgement_after_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outage: int
) -> None:
    """However long the connection is away, what was lost with its end is the same."""
    with IdTable(tmp_path / "ids", lost_ack_s=10.0) as table:
        id_ = first(table, 5)
        table.acknowledged(5)
        table.connection_ended()
        later = time.time() + outage
        monkeypatch.setattr(time, "time", lambda: later)
        assert again(table, 5) == id_


def test_acknowledged_long_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An acknowledgement given long before the connection ended has arrived."""
    with IdTable(tmp_path / "ids", lost_ack_s=10.0) as table:
        id_ = first(table, 5)
        table.acknowledged(5)
        later = time.time() + 3600
        monkeypatch.setattr(time, "time", lambda: later)
        table.connection_ended()
        assert again(table, 5) != id_


@given(mid=MIDS)
def test_acknowledged_long_ago(table: IdTable, mid: int) -> None:
    """Later the same bytes under the same identifier are another message."""
    id_ = first(table, mid)
    table.acknowledged(mid)
    assert again(table, mid) != id_


def test_id_survives_the_process(tmp_path: Path) -> None:
    """Nothing is closed or synced when a process is killed, and still the id stays."""
    path = tmp_path / "state" / "ids"
    killed = IdTable(path)
    id_ = first(killed, 9)
    with IdTable(path) as table:
        assert again(table, 9) == id_


@pytest.mark.parametrize("size", [0, 1, SLOTS * SLOT.size - 1, SLOTS * SLOT.size + 1])
def test_broken_table(tmp_path: Path, size: int) -> None:
    """A file of another size is started anew: a power cut may leave anything."""
    path = tmp_path / "ids"
    path.write_bytes(b"\xff" * size)
    with IdTable(path) as table:
        id_ = first(table, 65_535)
        assert again(table, 65_535) == id_
        assert again(table, 1) != again(table, 2)
    assert path.stat().st_size == SLOTS * (SLOT.size + 1)


def test_table_is_private(tmp_path: Path) -> None:
    """Only the daemon's user may read or change the table."""
    with IdTable(tmp_path / "ids"):
        assert (tmp_path / "ids").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("ulid", "text"),
    [
        (bytes(16), "00000000000000000000000000"),
        (bytes(15) + b"\x1f", "0000000000000000000000000Z"),
        (b"\xff" * 16, "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"),
        # the example of the ULID specification: 1469918176385 milliseconds
        (bytes.fromhex("01563df36481") + bytes(10), "01ARYZ6S410000000000000000"),
    ],
)
def test_ulid_text(ulid: bytes, text: str) -> None:
    """ULIDs are written as their specification says."""
    assert ulid_text(ulid) == text


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=2))
def test_ulids_sort_by_time(ulids: list[bytes]) -> None:
    """Sorted as text, ULIDs are sorted by their bytes, so by time."""
    assert sorted(map(ulid_text, ulids)) == [ulid_text(u) for u in sorted(ulids)]


def test_new_ulid() -> None:
    """A new ULID is 26 characters of Crockford base 32, and like no other."""
    made = {ulid_text(new_ulid()) for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", ulid) for ulid in made)


def test_deaths_are_counted_over_processes(tmp_path: Path) -> None:
    """Work that began and did not end is a death, and stays with its message."""
    for deaths in range(4):
        with IdTable(tmp_path / "ids") as table:
            (again if deaths else first)(table, 7)
            assert table.deaths(7) == deaths
            assert table.deaths(8) == 0
            table.begin(7)
    with IdTable(tmp_path / "ids") as table:
        again(table, 7)
        table.end(7)
        assert table.deaths(7) == 0


def test_a_count_belongs_to_one_message(table: IdTable) -> None:
    """Another message with its identifier starts from none, as after its end.

    A broker that does not mark redeliveries does not hide a death.
    """
    first(table, 9, b"a")
    table.begin(9)
    first(table, 9, b"a")
    assert table.deaths(9) == 1
    first(table, 9, b"b")
    assert table.deaths(9) == 0
    table.begin(9)
    table.acknowledged(9)
    assert table.deaths(9) == 0


def test_a_count_has_room(table: IdTable) -> None:
    """Thousands of deaths are as good as 255."""
    first(table, 5)
    for _ in range(1000):
        table.begin(5)
    assert table.deaths(5) == 255


def test_a_table_of_before_is_taken_over(tmp_path: Path) -> None:
    """One that had no counts keeps its ids: a redelivery has that of its first time."""
    path = tmp_path / "ids"
    with IdTable(path) as table:
        id_ = first(table, 65_535)
    with path.open("r+b") as file:
        file.truncate(SLOTS * SLOT.size)
    with IdTable(path) as table:
        assert again(table, 65_535) == id_
        table.begin(65_535)
        assert table.deaths(65_535) == 1
