"""What workers do: claim, start, report, renew, checkpoint, take back, release, acquire; also late and repeated."""

from __future__ import annotations

from typing import Any, List, Optional

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from elk_coordinator.errors import LeaseLost, NotOwner, PartitionNotFound, StateError
from elk_coordinator.model import HELD, MAX_BATCH, CancelReason, Outcome, PartitionStatus, Report
from elk_coordinator.partition.requests import BeatRequest, TurnRequest
from tests.contract.machine.life import LEASES, WORKERS, Life, Worker
from tests.contract.machine.plain_model import Claim, Stale

RUNNING = PartitionStatus.RUNNING
#: What a worker hears of an operator's cancel and release.
REASONS = {"C": CancelReason.CANCELLED, "R": CancelReason.STOP}


class WorkRules(Life):
    """The worker's side."""

    # ---------------------------------------------------------------- round trips

    @rule(worker=WORKERS, free=st.integers(1, 3), prefetch=st.integers(0, 2), lease=st.sampled_from(LEASES))
    def fetch(self, worker: int, free: int, prefetch: int, lease: float) -> None:
        self.request(self.workers[worker], lease, free=free, prefetch=prefetch)

    @rule(worker=WORKERS, free=st.integers(1, 2), tidied=st.booleans())
    def work(self, worker: int, free: int, tidied: bool) -> None:
        """Claim and complete, as nearly everything does outside of tests."""
        me = self.workers[worker]
        before = len(self.claims)
        self.request(me, LEASES[0], free=free)
        done = [Report(*claim, Outcome.COMPLETED, 3) for claim in self.claims[before:]]
        self.request(me, LEASES[0], done, free=int(tidied))

    @precondition(lambda self: self.model.any_held())
    @rule(worker=WORKERS, outcome=st.sampled_from(list(Outcome)), delay=st.sampled_from([0.0, 2.0]), data=st.data())
    def finish(self, worker: int, outcome: Outcome, delay: float, data: Any) -> None:
        """Report one of the claims that hold something now."""
        held = [claim for claim in self.claims[-20:] if self.model.held(claim)]
        if held:
            claim = data.draw(st.sampled_from(held), "claim")
            self.request(self.workers[worker], LEASES[0], [Report(*claim, outcome, 3, "boom\n e", delay)])

    @rule(
        worker=WORKERS,
        free=st.integers(0, 3),
        prefetch=st.integers(0, 2),
        suspects=st.booleans(),
        lease=st.sampled_from(LEASES),
        data=st.data(),
    )
    def turn(self, worker: int, free: int, prefetch: int, suspects: bool, lease: float, data: Any) -> None:
        """Everything in one request, also what makes no sense."""
        reports = [
            Report(
                *claim,
                data.draw(st.sampled_from(list(Outcome)), "outcome"),
                data.draw(st.integers(0, 3), "processed"),
                data.draw(st.sampled_from([None, "bang"]), "error"),
                data.draw(st.sampled_from([0.0, 2.0]), "delay"),
            )
            for claim in self.some_claims(data, 3, "reports")
        ]
        starts = self.some_claims(data, 2, "starts")
        self.request(self.workers[worker], lease, reports, starts, free, prefetch, suspects)

    def request(self, me: Worker, lease: float, *what: Any, **more: Any) -> None:
        stream = me.strategy.stream("work")
        request = TurnRequest(me.name, stream, me.strategy.next_sequence(stream), lease, *what, **more)
        self._turn(me, request)
        me.turns.append(request)

    def _turn(self, me: Worker, request: TurnRequest) -> None:
        self.tick()
        known = self.model.streams.get(request.stream)
        if known is not None and known[0] > request.sequence:
            self.seen["turn too late"] += 1
            with pytest.raises(StateError):
                me.strategy.turn(request)
            with pytest.raises(Stale):
                self.model.turn(request, [])
            return
        repeated = known is not None and known[0] == request.sequence
        self.seen["turn repeated"] += repeated
        turn = me.strategy.turn(request)
        answers, claims, statuses = self.model.turn(request, turn.granted)
        assert [r.status for r in turn.results] == answers
        assert [(p.partition_id, p.fencing_token) for p in turn.granted] == claims
        assert {p.partition_id: p.status for p in turn.granted} == statuses
        for report, answer in zip(request.reports, answers):
            self.seen["%s -> %s" % (report.outcome.name, answer.value if answer else "refused")] += 1
        if repeated:
            return
        self.granted(me.name, claims)
        for partition in turn.granted:
            self.seen["granted %s%s" % (partition.status.value, " suspect" * partition.is_suspect)] += 1
        if request.free + request.prefetch:
            left = [r for r in self.model.queue() if r.p.deliveries < 2]
            assert turn.left == len(left)
            expired = [r for r in self.model.records.values() if r.p.status in HELD]
            assert turn.expired == any(r.deadline <= self.model.now for r in expired)

    @precondition(lambda self: self.model.queue())
    @rule(worker=WORKERS, times=st.integers(1, 3), far=st.booleans())
    def a_worker_dies_of_one(self, worker: int, times: int, far: bool) -> None:
        """What is claimed next is claimed again and again by workers that die of it; at last it goes alone."""
        me = self.workers[worker]
        number = self.model.queue()[0].p.partition_id
        for _ in range(times):
            if number in self.model.records:
                self._acquire(me, number, False, False)
                self.tick(LEASES[1])
                self._sweep(self.workers[0], MAX_BATCH)
        self.request(me, LEASES[0], free=2, suspects=far)

    # ---------------------------------------------------------------- heartbeats

    @rule(worker=WORKERS, lease=st.sampled_from(LEASES), data=st.data())
    def beat(self, worker: int, lease: float, data: Any) -> None:
        self.send_beat(self.workers[worker], self.some_claims(data, 4, "claims"), lease)

    def send_beat(self, me: Worker, claims: List[Claim], lease: float = LEASES[0]) -> None:
        stream = me.strategy.stream("beat")
        claims = sorted(set(claims))
        request = BeatRequest(me.name, stream, me.strategy.next_sequence(stream), 60.0, lease, {}, claims)
        self._beat(me, request)
        me.beats.append(request)

    def _beat(self, me: Worker, request: BeatRequest) -> None:
        self.tick()
        # SIMPLE keeps no trace of a beat that renews nothing.
        leaves_trace = bool(request.claims) or not self.simple
        try:
            gone = self.model.beat(request.stream, request.sequence, request.lease, request.claims, leaves_trace)
        except Stale:
            self.seen["beat too late"] += 1
            with pytest.raises(StateError):
                me.strategy.beat(request)
            return
        self.seen["beat: held"] += len(set(request.claims) - gone)
        self.seen["beat: gone"] += len(gone)
        answer = me.strategy.beat(request)
        assert answer.lost == gone
        assert answer.paused == self.model.paused
        held = {number for number, token in request.claims if (number, token) not in gone}
        wishes = {i: (REASONS[self.model.wishes[i][0]], self.model.wishes[i][1]) for i in held & set(self.model.wishes)}
        self.seen["beat: hears a wish"] += len(wishes)
        assert dict(answer.cancels) == wishes
        assert me.name in {w.worker_id for w in me.strategy.workers()}

    # ---------------------------------------------------------------- late and repeated

    @precondition(lambda self: any(me.turns for me in self.workers))
    @rule(worker=WORKERS, what=st.sampled_from(["again", "turn", "beat"]), back=st.integers(2, 4))
    def a_request_comes_again(self, worker: int, what: str, back: int) -> None:
        me = self.workers[worker]
        if what == "beat":
            if len(me.beats) >= back - 1:
                self._beat(me, me.beats[-(back - 1)])
        else:
            back = 1 if what == "again" else back
            if len(me.turns) >= back:
                self._turn(me, me.turns[-back])

    # ---------------------------------------------------------------- single steps

    @precondition(lambda self: bool(self.claims))
    @rule(worker=WORKERS, place=st.integers(-1, 4), data=st.data())
    def checkpoint(self, worker: int, place: int, data: Any) -> None:
        self.tick()
        for claim in self.some_claims(data, 1, "claim"):
            record = self.model.get(claim[0])
            low, high = (record.p.min_id, record.p.max_id) if record is not None else (0, 9)
            value = min(low + place, high)
            expected = self.model.checkpoint(claim, value, place + 1)
            self.seen["checkpoint: %s" % expected] += 1
            assert self.workers[worker].strategy.save_checkpoint(*claim, value, place + 1) is expected

    @precondition(lambda self: self.model.any_held())
    @rule(worker=WORKERS, limit=st.sampled_from([MAX_BATCH, 1, 2]))
    def sweep(self, worker: int, limit: int) -> None:
        self._sweep(self.workers[worker], limit)

    def _sweep(self, me: Worker, limit: int) -> None:
        self.tick()
        strategy = me.strategy
        limit = MAX_BATCH if self.simple else limit
        expected = self.model.sweep(limit, 0 if self.simple else int(strategy.lease * 1000))
        got = strategy.sweep(limit=limit)
        found = [(r.partition_id, r.token, r.deliveries, r.status) for r in got.reclaimed]
        self.seen.update("reclaimed -> %s" % r.status.value for r in got.reclaimed)
        assert (sorted(found) if self.simple else found) == (sorted(expected) if self.simple else expected)
        assert got.more == (len(expected) == limit)

    @precondition(lambda self: bool(self.claims))
    @rule(worker=WORKERS, with_token=st.booleans(), data=st.data())
    def release(self, worker: int, with_token: bool, data: Any) -> None:
        self.tick()
        me = self.workers[worker]
        for claim in self.some_claims(data, 1, "claim"):
            record = self.model.get(claim[0])
            token: Optional[int] = claim[1] if with_token else None
            if record is None and not with_token:
                with pytest.raises(PartitionNotFound):
                    me.strategy.release_partition(claim[0], me.name)
                return
            if not with_token:
                assert record is not None
                if record.p.status not in HELD or record.p.worker_id != me.name:
                    with pytest.raises(NotOwner):
                        me.strategy.release_partition(claim[0], me.name)
                    return
                claim = (claim[0], record.p.fencing_token)
            answer = self.model.report(Report(*claim, Outcome.RELEASED))
            if answer is None:
                self.seen["release: refused"] += 1
                with pytest.raises(LeaseLost):
                    me.strategy.release_partition(claim[0], me.name, token)
            else:
                self.seen["release: done"] += 1
                me.strategy.release_partition(claim[0], me.name, token)

    @rule(worker=WORKERS, number=st.integers(1, 6), preempt=st.booleans(), force=st.booleans())
    def acquire(self, worker: int, number: int, preempt: bool, force: bool) -> None:
        self._acquire(self.workers[worker], number, preempt, force)

    def _acquire(self, me: Worker, number: int, preempt: bool, force: bool) -> None:
        self.tick()
        if number not in self.model.records:
            with pytest.raises(PartitionNotFound):
                me.strategy.acquire_partition(number, me.name, preempt, force)
            return
        expected = self.model.acquire(number, preempt, force)
        got = me.strategy.acquire_partition(number, me.name, preempt, force)
        assert (got is None) == (expected is None)
        if got is not None and expected is not None:
            self.seen["acquired%s" % (" by force" if force else "")] += 1
            self.granted(me.name, [(number, got.fencing_token)])
            self.model.grant(expected, me.name, got.fencing_token, me.strategy.lease, RUNNING)
