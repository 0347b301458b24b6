"""What happens to everybody: time passes, the store's clock goes back, its data is lost, a worker is replaced."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from elk_coordinator.model import CreatePartition
from tests.contract.machine.life import LEASES, TICK, WORKERS, Worker
from tests.contract.machine.rules_work import WorkRules

#: How a worker speaks that remembers what the store forgot.
FIRST = st.sampled_from(["beat", "turn", "create"])


class TimeRules(WorkRules):
    """Time and faults."""

    @rule(seconds=st.sampled_from([1.0, 3.0, 4.0, 6.0, 7.0]))
    def time_passes(self, seconds: float) -> None:
        self.tick(seconds)

    @rule(
        what=st.sampled_from(["nothing", "clock", "data", "worker", "all"]),
        seconds=st.sampled_from([1.0, 5.0, 30.0]),
        worker=WORKERS,
        often=st.integers(0, 2),
        first=FIRST,
    )
    def something_happens(self, what: str, seconds: float, worker: int, often: int, first: str) -> None:
        if what == "clock":
            self.the_clock_goes_back(seconds, first)
        elif what == "data" and often == 0:
            self.the_store_loses_its_data(first)
        elif what == "worker":
            self.a_worker_is_replaced(worker)
        elif what == "all" and often == 0:
            self.the_store_loses_its_data(first)
            self.the_clock_goes_back(seconds, first)

    def the_clock_goes_back(self, seconds: float, first: str) -> None:
        self.seen["clock set back"] += 1
        self.tick(-seconds)
        self._somebody_remembers(first)

    def the_store_loses_its_data(self, first: str) -> None:
        self.tick()
        self.backend.lose_data()
        self.seen["data lost"] += bool(self.model.records)
        self.model.lose_data()
        self.versions.clear()
        self.progress.clear()
        self.completed.clear()
        for worker in self.workers:
            worker.jobs.clear()
        self.before = None
        self._look = None
        self.lost = True
        self._somebody_remembers(first)

    def _somebody_remembers(self, first: str) -> None:
        """Leave the residual of the guarantees out: data lost, clock set back, and a stranger speaks first.

        :param first: how somebody speaks first who remembers.
        """
        highest = max(self.tokens + self.terms + [self.highest_version])
        if not self.lost or self.clock.us > highest:
            return
        if not self.simple:
            if int(self.backend.raw.hget(self.backend.key("meta"), "last") or 0) >= highest:
                return
            for worker in self.workers:
                if worker.strategy.memory.floor >= highest:
                    self.seen["somebody remembers the stamps of lost data"] += 1
                    self._speak(worker, first)
                    return
        step = int(TICK * 1e6)
        self.clock.move_to((highest // step + 1) * step)
        self.tick()

    def _speak(self, me: Worker, how: str) -> None:
        if how == "turn":
            self.request(me, LEASES[0], free=1)
        elif how == "create":
            self.tick()
            low = max(self.model.planned, default=0) + 2
            item = CreatePartition(self.model.top + 1, low, low + 2)
            self.model.create([item])
            assert len(me.strategy.create_partitions_if_not_exist([item])) == 1
        else:
            self.send_beat(me, [])

    def a_worker_is_replaced(self, worker: int) -> None:
        """Killed and started again under its name: it remembers nothing."""
        self.seen["worker replaced"] += 1
        old = self.workers[worker]
        self.workers[worker] = self._new_worker(worker)
        self.workers[worker].term = old.term
