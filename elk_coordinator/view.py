"""What one may ask a coordinator: the questions that its parts answer, whatever state it is in."""

from __future__ import annotations

from typing import Any, List, Optional

from elk_coordinator.admin.service import AdminService
from elk_coordinator.assembly import Parts
from elk_coordinator.leader.recovery import Recovery
from elk_coordinator.model import PartitionStats, Survey, WorkerInfo
from elk_coordinator.observability import merged
from elk_coordinator.partition.gaps import Gaps
from elk_coordinator.partition.strategy import PartitionStrategy
from elk_coordinator.worker.circuit_breaker import CircuitBreaker


class View:
    """The questions in the public face of :class:`~elk_coordinator.coordinator.Coordinator`. Safe from any thread.

    Only :meth:`stats` and :meth:`fleet` ask the store.
    """

    _parts: Parts
    _strategy: PartitionStrategy
    _http_address: Optional[str]

    def _check_fork(self) -> None:
        raise NotImplementedError

    @property
    def is_leader(self) -> bool:
        """Whether this worker leads, by its own clock."""
        return self._parts.leadership.term is not None

    @property
    def http_address(self) -> Optional[str]:
        """``host:port`` of the built-in HTTP thread; None when it is off or found no port."""
        return self._http_address

    @property
    def strategy(self) -> PartitionStrategy:
        """The partitions of this namespace; goes on working after stop()."""
        self._check_fork()
        return self._parts.public_strategy

    @property
    def gaps(self) -> Gaps:
        """What no partition covers, and what the leader did about it; on every worker, also after stop()."""
        return self._parts.gaps

    @property
    def admin(self) -> AdminService:
        """Operates this namespace: commands, and what there is to see; goes on working after stop()."""
        return AdminService(self.strategy)

    @property
    def circuit_breaker(self) -> Optional[CircuitBreaker]:
        """The breaker, or None when it is switched off."""
        return self._parts.breaker

    def stats(self) -> PartitionStats:
        """Return the counts, in one round trip."""
        return self._strategy.get_partition_stats()

    def fleet(self) -> List[WorkerInfo]:
        """Return the live workers, in one round trip."""
        return self._strategy.workers()

    # ---------------------------------------------------------------- monitoring

    def register_metrics(self, registry: Any) -> None:
        """Show our series in *registry*, a ``CollectorRegistry`` of the application, until :meth:`unregister_metrics`.

        Each series has the label ``coordinator`` there, so several coordinators may share one; see docs/metrics.rst.

        :raises ConfigError: when it is no registry.
        """
        merged.register(self._parts.metrics, registry)

    def unregister_metrics(self, registry: Any) -> None:
        """Take our series out of *registry* again, for example after ``stop()``."""
        merged.unregister(self._parts.metrics, registry)

    def cached_stats(self) -> Optional[PartitionStats]:
        """Return the leader's last look at the counts; None on a follower."""
        recovery = self._leading()
        return None if recovery is None else recovery.stats

    def cached_workers(self) -> Optional[int]:
        """Return the live workers at the leader's last look; None on a follower."""
        recovery = self._leading()
        return None if recovery is None else recovery.active_workers

    def cached_survey(self) -> Optional[Survey]:
        """Return the leader's last look at plan, fleet and archive; None on a follower."""
        recovery = self._leading()
        return None if recovery is None else recovery.survey

    def _leading(self) -> Optional[Recovery]:
        leader = self._parts.leader
        return leader.recovery if leader is not None and self._parts.leadership.term is not None else None
