"""The range fence: every effect happens exactly once, whoever was killed, frozen or late.

A lease alone cannot promise it: a worker may be frozen between its last look at the lease and its write. So the
database, which sees all writes, decides. One row per partition::

    fence(namespace, lo, hi, token, done_to)

* At its start a worker puts its fencing token into the row, in a transaction of its own, unless a larger one is there.
* Every write locks the row and goes on only if the row still holds its token, starts behind ``done_to``, and moves
  ``done_to`` in the same transaction.

Tokens only rise, so whoever was given the partition later wins; ``done_to`` moves together with the effects, so what
was done before a crash is not done again.
"""

from __future__ import annotations

from typing import Callable

from elk_coordinator.cli.demo.database import Database


class StaleToken(Exception):
    """Somebody with a larger token has this range: nothing was written."""

    def __init__(self, token: int, current: int) -> None:
        self.token = token
        self.current = current
        super().__init__("the fence holds token %d, this worker has %d: write refused" % (current, token))


class RangeFence:
    """The fence of one partition for one claim (one token).

    :param enforced: False leaves the check out: the control that shows what the fence is good for.
    """

    def __init__(
        self, database: Database, namespace: str, lo: int, hi: int, token: int, worker: str, enforced: bool = True
    ) -> None:
        self._db = database
        self._key = (namespace, lo, hi)
        self._token = token
        self._worker = worker
        self._enforced = enforced

    def take(self) -> int:
        """Put our token into the row; return the last id that is done already.

        :raises StaleToken: when a larger token is there.
        """
        namespace, lo, hi = self._key
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO fence (namespace, lo, hi, token, done_to, rows_done, worker) VALUES (?, ?, ?, ?, ?, 0, ?)"
                " ON CONFLICT (namespace, lo, hi) DO UPDATE SET token = excluded.token, worker = excluded.worker"
                " WHERE fence.token < excluded.token",
                (namespace, lo, hi, self._token, lo - 1, self._worker),
            )
            done_to = self._locked()
        return done_to if self._enforced else lo - 1

    def write(self, last_id: int, apply: Callable[[], int]) -> int:
        """Run *apply* and move ``done_to`` to *last_id* in one transaction; return what *apply* did.

        :raises StaleToken: when a larger token is there; *apply* did not run.
        """
        with self._db.transaction():
            self._locked()
            rows = apply()
            self._db.execute(
                "UPDATE fence SET done_to = ?, rows_done = rows_done + ? WHERE namespace = ? AND lo = ? AND hi = ?",
                (last_id, rows) + self._key,
            )
        return rows

    def _locked(self) -> int:
        """Lock the row, check the token, return ``done_to``."""
        select = "SELECT token, done_to FROM fence WHERE namespace = ? AND lo = ? AND hi = ?" + self._db.for_update
        token, done_to = self._db.query(select, self._key)[0]
        if token != self._token and self._enforced:
            raise StaleToken(self._token, token)
        return int(done_to)
