"""What happens to everybody: time passes, the store's clock goes back, its data is lost, a worker is replaced."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.contract.machine.life import TICK, WORKERS
from tests.contract.machine.rules_work import WorkRules


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
    )
    def something_happens(self, what: str, seconds: float, worker: int, often: int) -> None:
        if what == "clock":
            self.the_clock_goes_back(seconds)
        elif what == "data" and often == 0:
            self.the_store_loses_its_data()
        elif what == "worker":
            self.a_worker_is_replaced(worker)
        elif what == "all" and often == 0:
            self.the_store_loses_its_data()
            self.the_clock_goes_back(seconds)

    def the_clock_goes_back(self, seconds: float) -> None:
        self.seen["clock set back"] += 1
        self.tick(-seconds)
        self._somebody_remembers()

    def the_store_loses_its_data(self) -> None:
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
        self._somebody_remembers()

    def _somebody_remembers(self) -> None:
        """Leave the residual of the guarantees out: data lost, clock set back, and a stranger speaks first."""
        highest = max(self.tokens + self.terms + [self.highest_version])
        if not self.lost or self.clock.us > highest:
            return
        if not self.simple:
            if int(self.backend.raw.hget(self.backend.key("meta"), "last") or 0) >= highest:
                return
            for worker in self.workers:
                if worker.strategy.memory.floor >= highest:
                    self.seen["somebody remembers the stamps of lost data"] += 1
                    self.send_beat(worker, [])
                    return
        step = int(TICK * 1e6)
        self.clock.move_to((highest // step + 1) * step)
        self.tick()

    def a_worker_is_replaced(self, worker: int) -> None:
        """Killed and started again under its name: it remembers nothing."""
        self.seen["worker replaced"] += 1
        old = self.workers[worker]
        self.workers[worker] = self._new_worker(worker)
        self.workers[worker].term = old.term
