"""The codec of archive chunks: nothing is lost, whatever the rows are, and no damage is read as data."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elk_coordinator.errors import StoreError
from elk_coordinator.model import Partition, PartitionStatus
from elk_coordinator.partition import codec
from elk_coordinator.partition.archive_codec import Row, _Reader, decode, encode, row_of_done, row_of_partition
from tests.archive_data import simulated

IDS = st.integers(1, 2**53 - 1)
STAMPS = st.integers(0, 2**53)
BOUNDS = st.integers(-(2**63) + 1, 2**63 - 1)
WORKERS = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)
OPTIONS = st.one_of(
    st.just(""), st.sampled_from(['{"a":1}', '{"é":"\u2603 x"}', '{"deep":{"list":[1,2.5,null,true]}}'])
)

ROWS = st.builds(
    lambda ends, **facts: Row(low=min(ends), span=max(ends) - min(ends), **facts),
    st.tuples(BOUNDS, BOUNDS),
    partition_id=IDS,
    created=STAMPS,
    token=STAMPS,
    version=STAMPS,
    deliveries=st.integers(0, 2**31),
    attempt=st.integers(0, 2**31),
    priority=st.integers(-1000, 1000),
    processed=st.one_of(st.integers(0, 2**40), st.integers(-(2**70), 2**70)),
    worker=WORKERS,
    options=OPTIONS,
)
MANY = st.lists(ROWS, min_size=1, max_size=40, unique_by=lambda row: row.partition_id)


def by_id(rows: List[Row]) -> Dict[int, Row]:
    return {row.partition_id: row for row in sorted(rows)}


@given(MANY)
def test_any_rows_come_back_as_they_were(rows: List[Row]) -> None:
    back = decode(encode(rows))
    assert back == by_id(rows)
    assert list(back) == sorted(back)


@given(MANY, st.integers(0, 3))
def test_rows_that_share_workers_and_instants_come_back(rows: List[Row], few: int) -> None:
    # Tokens that name completions of the same chunk, and workers that repeat: what the codec makes use of.
    rows = [
        row._replace(version=100 + row.version % 7, token=97 + row.token % 12, worker="w%d" % (row.token % (few + 1)))
        for row in rows
    ]
    assert decode(encode(rows)) == by_id(rows)


def test_the_extremes_come_back() -> None:
    low, high = -(2**63) + 1, 2**63 - 1
    rows = [
        Row(1, low, high - low, 0, 0, 0, 0, 0, -1000, 0, "", ""),
        Row(2**53 - 1, high, 0, 2**53, 2**53, 2**53, 5, 3, 1000, 2**63, "w\u00e4rter \u2603", '{"k":"\u2603"}'),
    ]
    assert decode(encode(rows)) == by_id(rows)
    assert decode(encode(rows))[1].partition().min_id == low


def test_a_large_realistic_chunk_comes_back() -> None:
    rows = simulated(2000, seed=3)
    assert decode(encode(rows)) == by_id(rows)


@settings(max_examples=60)
@given(MANY, st.data())
def test_any_damage_is_an_error_and_never_other_rows(rows: List[Row], data: Any) -> None:
    blob = encode(rows)
    place = data.draw(st.integers(0, len(blob) - 1))
    flipped = blob[:place] + bytes([blob[place] ^ data.draw(st.integers(1, 255))]) + blob[place + 1 :]
    for damaged in (flipped, blob[:place], blob + b"x"):
        with pytest.raises(ValueError):
            decode(damaged)


def test_a_wrong_body_under_a_right_checksum_is_an_error() -> None:
    import struct
    import zlib

    good = encode(simulated(50, seed=1))
    for body in (b"", b"\xff", good[8:-3], b"\x05" + good[9:], good[8:40] + b"\x00" * 30):
        with pytest.raises(ValueError):
            decode(struct.pack("<4sI", b"ELK1", zlib.crc32(body)) + body)


def test_rows_of_both_strategies_are_the_same_partition() -> None:
    record = b"-5 a %014x 1700000000000001 1700000000000009 1 2 -3 7 w\xc3\xa4 x" % 1700000000000000
    row = row_of_done(4, record.replace(b" x", b' {"a": [1, 2]}'))
    assert row.partition() == codec.decode(4, b"", done=record.replace(b" x", b' {"a": [1, 2]}'))
    again = row_of_partition(row.partition())
    assert again.partition() == row.partition()
    assert again._replace(options="") == row._replace(options="")
    assert row.partition().status is PartitionStatus.COMPLETED
    assert isinstance(row.partition(), Partition)


def test_an_unreadable_record_is_no_row() -> None:
    for record in (b"", b"1 2 3", b"a b c d e f g h i j k"):
        with pytest.raises(StoreError, match="partition 4"):
            row_of_done(4, record)


@pytest.mark.parametrize("plane", [b"\x01\x02", b"\x01\x02\x04\x06", b"\x02\x03\x00"])
def test_a_column_of_another_length_than_announced_is_an_error(plane: bytes) -> None:
    with pytest.raises(ValueError, match="instead of 2"):
        _Reader(b"\x01" + bytes([len(plane)]) + plane).column(2)
