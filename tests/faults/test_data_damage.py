"""Records that somebody damaged, and keys that somebody took: one partition is set aside, the rest goes on."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List

import pytest

from elk_coordinator import PartitionStatus, StrategyType, create_strategy
from elk_coordinator.admin.doctor import diagnose
from elk_coordinator.partition.audit import verify
from elk_coordinator.partition.simple_strategy import DOCUMENT
from elk_coordinator.store.keys import KeySpace
from elk_coordinator.testing import wait_until
from tests.faults.fleet import LEASE, Fleet, let_pass, must_fail, now
from tests.faults.test_store import client

MakeFleet = Callable[..., Fleet]

STEPS: Dict[str, Any] = {"steps": 2, "pause": 0.1}
#: A worker whose memory of its last request is damaged waits for it for ever: as it was once.
TRUSTS_STREAMS = ["partition/work", "if previous and string.match(previous, '^%d+ %S* %d+ %S*$') then",
                  "if previous then"]  # fmt: skip


def name(partition_id: int) -> bytes:
    return b"%014x" % partition_id


def ended(fleet: Fleet, missing: int) -> bool:
    stats = fleet.partitions.get_partition_stats()
    return stats.last_allocated_id == fleet.last and stats.completed == fleet.last // fleet.size - missing


def completes(fleet: Fleet, since: float, timeout: float) -> None:
    wait_until(lambda: fleet.told("partition_completed", since), timeout, "a completion after the damage")


def test_damaged_records_and_foreign_entries_are_set_aside_and_named_while_the_rest_is_done(
    new_fleet: MakeFleet,
) -> None:
    fleet, control = new_fleet(600, "guarded"), new_fleet(600, "trusts-streams")
    for worker in ("a", "b"):
        fleet.start(worker, STEPS, wait=False)
    control.start("a", STEPS, scripts=[TRUSTS_STREAMS], wait=False)
    for each in (fleet, control):
        each.wait_completed(6)
    keys, other = KeySpace(fleet.namespace), KeySpace(control.namespace)
    with client(fleet.url) as hand:
        wait_until(lambda: hand.zcard(keys["pending"]) >= 2 and hand.zcard(keys["leases"]) >= 2, 20.0, fleet.story)
        waiting = [int(item, 16) for item in hand.zrange(keys["pending"], -2, -1)]
        held = [int(item, 16) for item in hand.zrange(keys["leases"], -2, -1)]
        damaged = {*waiting, *held}
        specs = {i: hand.hget(keys["specs"], name(i)) for i in damaged}
        hand.hset(keys["state"], mapping={name(waiting[0]): b"x", name(held[0]): b"\xff\xfe"})
        hand.hset(keys["specs"], mapping={name(waiting[1]): b"10 20", name(held[1]): b"{}"})
        # Somebody else's entries, and numbers of ours that are none any more.
        for key in ("specs", "state", "done", "cancels", "worker_info"):
            hand.hset(keys[key], "foreign", "x")
        for key, score in (("pending", -5), ("leases", 5), ("delayed", 5), ("suspects", -5)):
            hand.zadd(keys[key], {"foreign": score})
        hand.hset(keys["meta"], mapping={"last": "x", "low_water": "x"})
        for each in (keys, other):
            for stream in hand.hkeys(each["streams"]):
                hand.hset(each["streams"], stream, "x")
        at = now()
        # A completion of one of them may have been on its way.
        wait_until(lambda: ended(fleet, len(damaged)) or ended(fleet, 3), 4 * LEASE + 20.0, fleet.story)
        seconds = now() - at
        left = sorted(damaged - {p.partition_id for p in fleet.partitions.get_all_partitions()})
        assert len(left) >= 3
        problems = verify(fleet.partitions).problems
        for partition_id in left:
            assert any(line.startswith("partition %d: " % partition_id) for line in problems), problems

        def found() -> Dict[str, str]:
            return {f.code: f.found for f in diagnose(fleet.namespace, fleet.store).of("problem")}

        # What was held is set aside when its lease is over.
        wait_until(lambda: all(str(i) in found().get("corrupt", "") for i in left), 4 * LEASE + 10.0, "all set aside")
        findings = found()
        assert "'foreign' in specs" in findings["keys-foreign"]
        with must_fail("a completion after the damage"):
            completes(control, at + 1.0, 3.0)
        # Put right by hand, they are done like all others.
        for key in ("specs", "state", "done", "cancels", "worker_info"):
            hand.hdel(keys[key], "foreign")
        hand.srem(keys["corrupt"], "foreign", *map(name, damaged))
        for partition_id in left:
            hand.hset(keys["specs"], name(partition_id), specs[partition_id])
            hand.hdel(keys["state"], name(partition_id))
            hand.zrem(keys["leases"], name(partition_id))
            hand.zadd(keys["pending"], {name(partition_id): 0})
    fleet.wait_done()
    control.workers[0].kill()
    fleet.end()
    tally = fleet.check()
    assert not fleet.told("role_died")
    print("%d damaged records and 11 foreign entries: %d of 60 partitions set aside, the rest done after %.2f s; %s" % (
        len(damaged), len(left), seconds, tally))  # fmt: skip


def test_a_damaged_record_in_the_document_of_the_simple_strategy_stops_only_its_partition(
    new_fleet: MakeFleet,
) -> None:
    fleet = new_fleet(300)
    fleet.partitions = create_strategy(StrategyType.SIMPLE, fleet.namespace, fleet.store)
    for worker in ("a", "b"):
        fleet.start(worker, STEPS, wait=False, options={"strategy": "simple"})
    fleet.wait_completed(5)
    store = fleet.store.namespaced(fleet.namespace)
    saved: List[Any] = []

    def put(change: Callable[[Dict[str, Any]], None]) -> bool:
        value = store.get(DOCUMENT)
        document = json.loads(value.data or b"")
        document["meta"].pop("operation", None)
        change(document["records"])
        return store.compare_and_set(DOCUMENT, value.version, json.dumps(document).encode()) is not None

    def damage(records: Dict[str, Any]) -> None:
        waiting = [i for i in records if records[i][2] == "P"]
        if waiting:
            saved[:] = [waiting[-1], records[waiting[-1]]]
            records[waiting[-1]] = ["nonsense", None]

    wait_until(lambda: put(damage) and saved, 20.0, "a damaged record")
    wait_until(lambda: ended(fleet, 1), 30.0, fleet.story)
    problems = verify(fleet.partitions).problems
    assert any("partition %s: its record in the document" % saved[0] in line for line in problems), problems
    assert any(saved[0] in f.found for f in diagnose(fleet.namespace, fleet.store).of("problem"))
    wait_until(lambda: put(lambda records: records.update({saved[0]: saved[1]})), 20.0, "the record put right")
    fleet.wait_done()
    fleet.end()
    print("29 of 30 partitions done beside a damaged record, and that one when it was put right; %s" % fleet.check())


WRONG = ("meta", "streams", "state", "leases", "pending", "specs", "planned", "lock:leader", "done", "failed",
         "corrupt", "cancels", "suspects", "delayed", "claimed", "workers")  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_key_of_a_wrong_type_is_named_and_waited_for_and_costs_nothing_when_it_is_back(new_fleet: MakeFleet) -> None:
    fleet = new_fleet(8000)
    for worker in ("a", "b"):
        fleet.start(worker, STEPS, wait=False)
    fleet.wait_completed(6)
    keys = KeySpace(fleet.namespace)
    waits = []
    with client(fleet.url) as hand:
        for key in WRONG:
            there = hand.exists(keys[key])
            with hand.pipeline() as pipe:
                if there:
                    pipe.rename(keys[key], keys["aside"])
                pipe.rpush(keys[key], "x")
                pipe.execute()
            at = now()
            findings = {f.code: f.found for f in diagnose(fleet.namespace, fleet.store).of("problem")}
            assert "%s is a list" % key in findings["keys-type"], findings
            let_pass(0.3 * LEASE, at)
            with hand.pipeline() as pipe:
                pipe.delete(keys[key])
                if there:
                    pipe.rename(keys["aside"], keys[key])
                pipe.execute()
            back = now()
            done = fleet.wait_told("partition_completed", LEASE + 15.0, back)
            waits.append(done["t"] - back)
    assert not fleet.told("role_died")
    fleet.wait_done(60.0)
    fleet.end()
    print("%d keys, one after the other a list for a third of a lease; back to work %.2f to %.2f s after each; %s" % (
        len(waits), min(waits), max(waits), fleet.check()))  # fmt: skip


#: Keys whose loss costs no work: hints, registers and memories that are written again.
HARMLESS = ("workers", "worker_info", "streams", "lock:leader", "events", "value:gaps")


@pytest.mark.long
def test_one_key_deleted_by_hand_is_always_seen(new_fleet: MakeFleet) -> None:
    fleet = new_fleet(200)
    keys = KeySpace(fleet.namespace)
    fleet.start("a", STEPS, wait=False)
    fleet.wait_completed(6)
    fleet.workers[0].kill()
    with client(fleet.url) as hand:
        assert verify(fleet.partitions).problems == []
        there = {key[len(keys.pattern) - 1 :].decode() for key in hand.scan_iter(match=keys.pattern)}
        seen, unaudited = {}, {}
        for key in sorted(there):
            hand.rename(keys[key], keys["aside"])
            problems = verify(fleet.partitions).problems
            seen[key] = bool(problems) or not diagnose(fleet.namespace, fleet.store).healthy
            unaudited[key] = not diagnose(fleet.namespace, fleet.store, every_one=0).healthy
            hand.rename(keys["aside"], keys[key])
        assert {"meta", "specs", "state", "leases", "done", "planned"} <= there

    def check_seen(seen: Dict[str, bool]) -> None:
        unseen = {key for key in seen if not seen[key]} - set(HARMLESS)
        assert not unseen, "lost and not seen: %s" % sorted(unseen)

    check_seen(seen)
    # Without the audit of all records.
    with must_fail("lost and not seen"):
        check_seen(unaudited)
    # The harmless ones are.
    with client(fleet.url) as hand:
        hand.delete(*(keys[key] for key in HARMLESS))
    fleet.start("b", STEPS)
    fleet.wait_done(LEASE + 20.0)
    fleet.workers[-1].end()
    print("%d keys deleted one by one: each loss was named, but for %s, which cost nothing; %s" % (
        len(seen), ", ".join(key for key in seen if not seen[key]), fleet.check()))  # fmt: skip
    assert {p.status for p in fleet.partitions.get_all_partitions()} == {PartitionStatus.COMPLETED}
