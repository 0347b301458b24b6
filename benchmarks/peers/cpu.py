"""CPU time of worker processes and of the server: other work on the machine changes it less than it changes rates."""

from __future__ import annotations

import os


def _stats():
    """Return (process id, fields from the state on) of all processes; nothing where there is no /proc."""
    try:
        ids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    found = []
    for process in ids:
        try:
            with open("/proc/%d/stat" % process, encoding="utf-8", errors="replace") as file:
                found.append((process, file.read().rpartition(")")[2].split()))
        except OSError:  # it ended meanwhile
            continue
    return found


def members(leader):
    """Return the processes of a session: a pool may put its children into groups of their own."""
    return [process for process, fields in _stats() if int(fields[3]) == leader]


def of_sessions(leaders):
    """Return the seconds of user and system time of all processes of these sessions; None where there is no /proc."""
    stats = _stats()
    if not stats:
        return None
    ticks = sum(int(fields[11]) + int(fields[12]) for _, fields in stats if int(fields[3]) in leaders)
    return ticks / os.sysconf("SC_CLK_TCK")


def of_server(client):
    facts = client.info("cpu")
    return facts["used_cpu_user"] + facts["used_cpu_sys"]


class Meter:
    """Begun at the first job seen; tells microseconds per job since then, of the workers and of the server."""

    def __init__(self, client, leaders, done):
        self._client, self._leaders, self._done = client, leaders, done
        self._workers, self._server = of_sessions(leaders), of_server(client)

    def per_job(self, done):
        jobs = done - self._done
        if jobs <= 0 or self._workers is None:
            return None, None
        used = of_sessions(self._leaders) - self._workers, of_server(self._client) - self._server
        return tuple(seconds * 1e6 / jobs for seconds in used)
