"""HashPartitionStrategy: partitions in Redis hashes and sorted sets, each move one Lua script."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from elk_coordinator.errors import (
    ConfigError,
    IllegalTransition,
    LeaseLost,
    PartitionNotFound,
    StateError,
    StoreError,
    VersionConflict,
)
from elk_coordinator.model import (
    MAX_BATCH,
    Beat,
    CancelReason,
    CreatePartition,
    IdleState,
    Partition,
    PartitionStats,
    PartitionStatus,
    PlanState,
    Range,
    Reclaimed,
    ReportResult,
    StrategyType,
    Sweep,
    Turn,
)
from elk_coordinator.partition import codec
from elk_coordinator.partition.archive import ChunkChange, answer_again
from elk_coordinator.partition.commands import NO_JOB, CarriedOn
from elk_coordinator.partition.hash_archive import chunk_args
from elk_coordinator.partition.hash_audit import HashAudit
from elk_coordinator.partition.requests import AREA, LOOK, BeatRequest, TurnRequest
from elk_coordinator.store.base import DataStore
from elk_coordinator.store.redis_store import RedisDataStore, floor_refused

_TURN_KEYS = "meta streams pending suspects delayed leases claimed failed specs state done cancels corrupt"
_DELETE_KEYS = (
    "meta planned specs state done leases pending suspects delayed failed cancels lock:leader "
    "command_state command_queue command_ended archive archive_index"
)
_SWEEP_KEYS = (
    "meta leases state claimed pending suspects delayed failed corrupt lock:leader cancels command_queue specs"
)
_JOB_KEYS = "command_state command_queue command_ended"
_INDEX_OF = {"active": ("specs", "HSCAN"), "done": ("done", "HSCAN"), "held": ("leases", "ZSCAN"),
             "failed": ("failed", "ZSCAN")}  # fmt: skip

_STREAMS = ("work", "beat", "call", "renew", "acquire", "update")

#: Answers to a report; '-' is a claim that is gone.
_STATUS_OF_CODE = {
    "C": PartitionStatus.COMPLETED,
    "P": PartitionStatus.PENDING,
    "F": PartitionStatus.FAILED,
    "-": None,
}

_ALL_INDEXES = (
    ("specs", "HSCAN"), ("state", "HSCAN"), ("pending", "ZSCAN"), ("suspects", "ZSCAN"), ("delayed", "ZSCAN"),
    ("leases", "ZSCAN"), ("claimed", "SSCAN"), ("failed", "ZSCAN"), ("corrupt", "SSCAN"), ("done", "HSCAN"),
)  # fmt: skip


class HashPartitionStrategy(HashAudit):
    """The recommended strategy. Needs a :class:`~elk_coordinator.RedisDataStore`."""

    strategy_type = StrategyType.HASH
    store: RedisDataStore

    def __init__(self, namespace: str, store: DataStore, **options: Any) -> None:
        if not isinstance(store, RedisDataStore):
            raise ConfigError(
                "strategy: StrategyType.HASH needs a RedisDataStore, not %s; StrategyType.SIMPLE runs on any DataStore"
                % type(store).__name__
            )
        super().__init__(namespace, store.namespaced(namespace), **options)
        keys = self.store.keys
        self._turn_keys = keys.many(_TURN_KEYS)
        self._beat_keys = keys.many("meta workers worker_info leases state cancels streams")
        self._checkpoint_keys = keys.many("meta leases state")
        self._sweep_keys = keys.many(_SWEEP_KEYS)
        self._plan_keys = keys.many("meta lock:leader planned skipped specs pending " + _JOB_KEYS)
        self._stats_keys = keys.many("meta pending suspects delayed leases claimed failed done planned corrupt")

    def _checked(self, reply: List[Any], what: str) -> List[Any]:
        if reply[0] == -1:
            raise StoreError(floor_refused(self.memory.floor))
        if reply[0] == 0:
            raise StateError(
                "%s of this worker instance was overtaken by a later one: two processes share one instance "
                "(a fork after start?)" % what
            )
        return reply

    def turn(self, request: TurnRequest) -> Turn:
        args: List[Any] = [
            request.stream,
            request.sequence,
            self.memory.floor,
            request.worker_id,
            int(request.lease * 1000),
            min(request.free, MAX_BATCH),
            max(0, min(request.prefetch, MAX_BATCH - request.free)),
            1 if request.suspects else 0,
            self.max_attempts,
            self.max_deliveries,
            self.store.keys.channel,
            len(request.reports),
        ]
        for report in request.reports:
            facts = (report.partition_id, report.token, report.outcome.value, report.processed, report.delay * 1000)
            args.append("%014x %d %s %d %d " % facts + (codec.clip_error(report.error) if report.error else ""))
        args.append(len(request.starts))
        args += ["%014x %d" % start for start in request.starts]
        if request.owned:
            args += (LOOK, request.owned, AREA)
        reply = self._checked(self.store.run("partition/work", self._turn_keys, args), "a turn")
        results = [
            ReportResult(report.partition_id, report.token, _STATUS_OF_CODE[code])
            for report, code in zip(request.reports, reply[5].decode("ascii"))
        ]
        granted, unreadable = [], []
        deadline = b"%d" % (int(reply[1]) // 1000 + int(request.lease * 1000))
        for text in reply[7:]:
            name, _, rest = text.partition(b" ")
            spec, _, state = rest.partition(b"\n")
            try:
                granted.append(codec.decode(codec.unpad(name), spec, state, lease=deadline))
            except (StoreError, ValueError) as exc:
                # ValueError: a name that is no id, in specs and pending by somebody else's hand.
                self.logger.error("%s; it is set aside", exc)
                unreadable.append(name)
        if unreadable:
            keys = self.store.keys.many("corrupt pending suspects delayed leases claimed failed")
            self.store.run("partition/quarantine", keys, unreadable)
        if granted:
            self.memory.saw(max(partition.fencing_token for partition in granted))
        due_in = None if reply[6] < 0 else reply[6] / 1000
        turn = Turn(results, granted, reply[3], bool(reply[4]), bool(reply[2]), due_in)
        return answer_again(request, turn, self.archived, self.logger.error)

    def beat(self, request: BeatRequest) -> Beat:
        args: List[Any] = [
            request.stream,
            request.sequence,
            self.memory.floor,
            request.worker_id,
            int(request.ttl * 1000),
            json.dumps(dict(request.info)),
            int(request.lease * 1000),
            self.store.keys.SCHEMA,
            self.strategy_type.value,
            len(request.claims),
        ]
        for partition_id, token in request.claims:
            args += (codec.pad(partition_id), token)
        reply = self.store.run("partition/heartbeat", self._beat_keys, args)
        if reply[0] == -2:
            raise self._refused(reply[1].decode(), reply[2].decode())
        reply = self._checked(reply, "a heartbeat")
        # Every beat remembers how far the stamps are, so that even a worker that never claims can prove a loss.
        self.memory.saw(int(reply[1]))
        letters = reply[5].decode("ascii")
        wishes = {}
        for i in range(7, len(reply), 2):
            letter, _, who = reply[i + 1].decode("utf-8", "replace").partition(" ")
            wishes[codec.unpad(reply[i])] = (CancelReason.CANCELLED if letter == "C" else CancelReason.STOP, who)
        return Beat(
            frozenset(claim for claim, letter in zip(request.claims, letters) if letter == "x"),
            wishes,
            bool(reply[3]),
            int(reply[4]),
            int(reply[2]),
            int(reply[6]) / 1e6,
        )

    def _refused(self, schema: str, strategy: str) -> ConfigError:
        if strategy != self.strategy_type.value:
            return ConfigError(
                "strategy: namespace %r runs strategy %r, this worker is configured for %r; use the same one, or "
                "another namespace" % (self.namespace, strategy, self.strategy_type.value)
            )
        return ConfigError(
            "namespace %r was written with schema %s, this library reads %d and %d; upgrade the library, or "
            "use another namespace" % (self.namespace, schema, self.store.keys.SCHEMA - 1, self.store.keys.SCHEMA)
        )

    def save_checkpoint(self, partition_id: int, token: int, checkpoint: int, processed: int) -> bool:
        args: List[Any] = [self.memory.floor, codec.pad(partition_id), token, codec.bound(checkpoint), processed]
        reply = self.store.run("partition/checkpoint", self._checkpoint_keys, args)
        if reply[0] == -1:
            raise StoreError(floor_refused(self.memory.floor))
        return bool(reply[0])

    def sweep(self, limit: int = MAX_BATCH, term: Optional[int] = None) -> Sweep:
        args: List[Any] = [limit, self.max_deliveries, self.memory.floor, "" if term is None else term]
        args += [int(self.lease * 1000), "" if self.longest_retry is None else int(self.longest_retry * 1000)]
        reply = self._checked(self.store.run("partition/sweep", self._sweep_keys, args), "a sweep")
        reclaimed = []
        for i in range(6, len(reply), 6):
            partition_id, worker, token, deliveries, letter, error = reply[i : i + 6]
            reclaimed.append(
                Reclaimed(
                    codec.unpad(partition_id),
                    worker.decode("utf-8", "replace"),
                    int(token),
                    int(deliveries),
                    codec.STATUS_OF_LETTER[letter.decode("ascii")],
                    error.decode("utf-8", "replace"),
                )
            )
        calls = int(reply[3])
        return Sweep(reclaimed, bool(reply[2]), calls % 4 > 0, calls % 4 == 2, int(reply[4]), int(reply[5]), calls > 3)

    def plan_state(self, calls_heard: bool = False) -> PlanState:
        keys = self.store.keys.many("meta planned pending suspects delayed leases")
        version, tail, top, pending, held, now = self.store.run("partition/plan_state", keys, [int(calls_heard)])
        last = codec.uninterval(tail) if tail else None
        planned, highest = codec.number("planned_version", version), codec.number("max_id", top)
        return PlanState(planned, last, highest, pending, held, int(now) / 1e6)

    def note_round(self, term: int, low_water: int, exhausted_version: Optional[int], began: float) -> bool:
        marks: List[Any] = ["low_water", low_water]
        if exhausted_version is not None:
            marks += ["exhausted_at", round(began * 1e6), "exhausted_version", exhausted_version]
        return bool(self.store.run("partition/mark", self.store.keys.many("meta lock:leader"), [term, "", *marks])[0])

    def ask_for_round(self) -> None:
        args = ["", self.store.keys.channel, "asked", "1"]
        self.store.run("partition/mark", self.store.keys.many("meta lock:leader"), args)

    def idle_state(self) -> IdleState:
        keys = self.store.keys.many("meta pending suspects delayed leases")
        now, count, planned, at, version = (int(item) for item in self.store.run("partition/idle", keys))
        return IdleState(now / 1e6, count, planned == version, at / 1e6)

    def _plan(
        self,
        expected_version: int,
        term: Optional[int],
        partitions: Sequence[CreatePartition],
        planned: Tuple[Sequence[Range], Sequence[Range]],
        skipped: Tuple[Sequence[Range], Sequence[Range]],
        job: Sequence[Any] = NO_JOB,
    ) -> int:
        args: List[Any] = [
            expected_version,
            "" if term is None else term,
            self.memory.floor,
            self.store.keys.channel,
            "%s:%d" % (self.stream("plan"), self.next_sequence("plan")),
            len(partitions),
        ]
        for item in partitions:
            options = codec.dump_options(item.options, item.partition_id)
            args.append(
                "%s %d %s %s" % (
                    codec.pad(item.partition_id), -item.priority, codec.spec_head(item.min_id, item.max_id), options
                )
            )  # fmt: skip
        for ranges in (planned[0], planned[1], skipped[0], skipped[1]):
            args.append(len(ranges))
            args += [codec.interval(item) for item in ranges]
        args += job
        reply = self.store.run("partition/plan", self._plan_keys, args)
        return self._plan_version(reply, expected_version, term or 0)

    def _plan_version(self, reply: List[Any], expected: int, term: int) -> int:
        """Return the plan's new version from the answer of a script that changes it, or raise what it refused."""
        if reply[0] == 0:
            raise VersionConflict("the plan of %r" % self.namespace, expected, int(reply[1]))
        if reply[0] == -2:
            raise LeaseLost(0, term, "the plan of this leader's term")
        if reply[0] == -4:
            raise CarriedOn
        if reply[0] == -3:
            raise StoreError("the planned intervals of %r were changed by hand: run 'elk verify'" % self.namespace)
        version = int(self._checked(reply, "a plan")[1])
        self.memory.saw(version)
        return version

    def _acquire(
        self, partition_id: int, worker_id: str, sequence: int, preempt: bool, force: bool
    ) -> Optional[Partition]:
        keys = self.store.keys.many("meta streams pending suspects delayed leases claimed failed specs state cancels")
        args: List[Any] = [self.stream("acquire"), sequence, self.memory.floor, worker_id, int(self.lease * 1000)]
        args += [codec.pad(partition_id), int(preempt), int(force), self.max_deliveries]
        reply = self._checked(self.store.run("partition/acquire", keys, args), "an acquisition")
        if reply[0] == 3:
            raise PartitionNotFound(partition_id)
        if reply[0] == 4:
            raise codec.unreadable(partition_id)
        if reply[0] == 2:
            return None
        found = codec.decode(partition_id, reply[1], reply[2], lease=reply[3])
        self.memory.saw(found.fencing_token)
        return found

    def _update(self, wanted: Partition, expected_version: Optional[int]) -> int:
        keys = self.store.keys.many("meta pending suspects specs state streams")
        args: List[Any] = [
            self.memory.floor,
            codec.pad(wanted.partition_id),
            "" if expected_version is None else expected_version,
            codec.dump_options(wanted.options, wanted.partition_id),
            codec.clip_error(wanted.error),
            wanted.priority,
            self.stream("update"),
            self.next_sequence("update"),
        ]
        reply = self.store.run("partition/update", keys, args)
        if reply[0] == 0:
            raise VersionConflict("partition %d" % wanted.partition_id, expected_version, int(reply[1]))
        if reply[0] == 2:
            raise IllegalTransition("partition %d: its priority changes only while pending" % wanted.partition_id)
        if reply[0] == 3:
            raise PartitionNotFound(wanted.partition_id)
        if reply[0] == 4:
            raise codec.unreadable(wanted.partition_id)
        return int(self._checked(reply, "an update")[1])

    def _delete(
        self,
        partition_ids: Sequence[int],
        expected_version: int,
        planned: Tuple[Sequence[Range], Sequence[Range]],
        chunks: Sequence[ChunkChange] = (),
        term: int = 0,
        job: Sequence[Any] = NO_JOB,
    ) -> List[int]:
        keys = self.store.keys.many(_DELETE_KEYS)
        args: List[Any] = [expected_version, self.memory.floor, len(partition_ids)]
        args += [codec.pad(partition_id) for partition_id in partition_ids]
        for ranges in planned:
            args.append(len(ranges))
            args += [codec.interval(item) for item in ranges]
        reply = self.store.run("partition/delete", keys, [*args, *chunk_args(chunks), term, *job])
        if reply[0] == 2:
            return [codec.unpad(name) for name in reply[1:]]
        self._plan_version(reply, expected_version, term)
        return []

    def _interval_page(self, which: str, first: Optional[int], limit: int) -> Tuple[int, List[Range]]:
        start = "" if first is None else codec.bound(first)
        keys = self.store.keys.many("meta " + which)
        reply = self.store.run("partition/intervals", keys, [start, limit])
        return int(reply[0]), [codec.uninterval(member) for member in reply[1:]]

    def _read_recent(self, partition_ids: Sequence[int]) -> Dict[int, Partition]:
        out = {}
        for partition_id, raw in self.read_raw(partition_ids):
            if raw[0] or raw[2]:
                try:
                    out[partition_id] = codec.decode(partition_id, *raw[:5])
                except StoreError as exc:
                    if len(partition_ids) == 1:
                        raise
                    # One unreadable record must not hide the others; verify names it.
                    self.logger.error("%s", exc)
        return out

    def scan(self, key: str, command: str, wrong: Optional[List[str]] = None) -> Iterator[int]:
        """Return the ids in one index, page by page, each at least once; name in *wrong* what is none of ours."""
        cursor: Any = b"0"
        while True:
            reply = self.store.run("partition/scan", [self.store.keys[key]], [cursor, MAX_BATCH, command])
            for name in reply[1:]:
                if codec.is_padded(name):
                    yield codec.unpad(name)
                elif wrong is not None:
                    wrong.append("%s holds %r, which is no partition: something else writes there" % (key, name[:60]))
            cursor = reply[0]
            if int(cursor) == 0:
                return

    def indexed_ids(self, wrong: Optional[List[str]] = None) -> Iterator[int]:
        # Specs before done: what completes in between is then seen in at least one of them.
        for key, command in _ALL_INDEXES:
            yield from self.scan(key, command, wrong)
        yield from self.archived_ids()

    def _scan_ids(self, index: str) -> Iterator[int]:
        key, command = _INDEX_OF[index]
        return self.scan(key, command)

    def get_partition_stats(self) -> PartitionStats:
        reply = self.store.run("partition/stats", self._stats_keys)
        pending, held, claimed, done, failed = (int(item) for item in reply[:5])
        pruned, top = codec.number("pruned", reply[7]), codec.number("max_id", reply[5])
        completed = done + pruned
        total = pending + held + completed + failed
        return PartitionStats(
            total=total,
            pending=pending,
            claimed=claimed,
            running=held - claimed,
            completed=completed,
            failed=failed,
            completion_rate=completed / total if total else 0.0,
            failure_rate=failed / total if total else 0.0,
            max_partition_id=top,
            last_allocated_id=codec.uninterval(reply[6])[1] if reply[6] else None,
            pruned=pruned,
        )

    def is_paused(self) -> bool:
        return bool(self.store.run("partition/stats", self._stats_keys)[9])

    def stop(self) -> None:
        """End this instance: give back what was claimed through its public methods; forget its streams of requests."""
        super().stop()
        keys = self.store.keys.many("workers worker_info streams")
        self.store.run("store/forget", keys, [""] + [self.stream(name) for name in _STREAMS])
