"""The server's part of ``elk doctor``: version, persistence, memory, rights, clock, latency. Only asks."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Tuple

from elk_coordinator.admin.findings import INFO, OK, PROBLEM, WARNING, Notes, pairs, some, word
from elk_coordinator.errors import StoreError
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.store.redis_store import RedisDataStore

#: The oldest servers this is tested on.
FLOORS = {"Redis": (6, 2), "Valkey": (7, 2)}
#: Share of maxmemory from which on it is tight, and too tight.
TIGHT, FULL = 0.8, 0.95
#: Seconds between this host's clock and the server's that nobody needs to mind.
CLOCK_APART = 5.0
#: Seconds by which the server's clock may lie behind the last stamp: stamps run ahead of it when many are drawn.
STAMP_AHEAD = 5.0
_DAY = 86_400.0
#: Round trips measured of each kind, and seconds after which no more are.
SAMPLES = 50
MEASURE_FOR = 3.0

#: Every command the library sends, most of them in scripts, in a form that is complete.
NEEDED = (
    "EVAL return KEY 1 KEY",
    "EVALSHA ffffffffffffffffffffffffffffffffffffffff 1 KEY",
    "CLIENT SETNAME elk",
    "PING",
    "TIME",
    "DEL KEY",
    "HSET KEY f v", "HGET KEY f", "HMGET KEY f", "HGETALL KEY", "HDEL KEY f", "HEXISTS KEY f", "HKEYS KEY",
    "HLEN KEY", "HINCRBY KEY f 1", "HSCAN KEY 0", "HSTRLEN KEY f",
    "SADD KEY m", "SREM KEY m", "SCARD KEY", "SMISMEMBER KEY m", "SSCAN KEY 0",
    "ZADD KEY 0 m", "ZREM KEY m", "ZCARD KEY", "ZSCORE KEY m", "ZMSCORE KEY m", "ZRANGE KEY 0 1",
    "ZREVRANGE KEY 0 1", "ZRANGEBYSCORE KEY 0 1", "ZRANGEBYLEX KEY - +", "ZCOUNT KEY 0 1", "ZSCAN KEY 0",
    "XADD KEY * f v", "XRANGE KEY - +", "XREVRANGE KEY + -",
)  # fmt: skip
#: Those of the wake-up hints: without them everything works, only later.
HINTS = ("PUBLISH CHANNEL hint", "SUBSCRIBE CHANNEL", "UNSUBSCRIBE CHANNEL")


def examine_server(store: RedisDataStore, notes: Notes, clock: Clock, lease: float) -> None:
    """Look at the server behind *store*, which is bound to a namespace.

    :param lease: seconds of the shortest lease in use, for judging the latency.
    """
    info: Dict[str, Any] = {}
    with notes.looking("info", "the server's INFO"):
        info = {word(name): value for name, value in pairs(store.ask("INFO")).items()}
    if info:
        for code, what, look in (
            ("version", "the server's version", _version),
            ("role", "the server's role", _role),
            ("persistence", "persistence", _persistence),
        ):
            with notes.looking(code, what):
                look(info, store, notes)
    with notes.looking("eviction", "the eviction policy"):
        _eviction(info, store, notes)
    with notes.looking("memory", "the server's memory"):
        _memory(info, store, notes)
    with notes.looking("acl", "this user's rights", PROBLEM):
        _rights(store, notes)
    with notes.looking("clock", "the clocks", WARNING):
        _clocks(store, notes, clock)
    with notes.looking("latency", "the latency", WARNING):
        _latency(store, notes, clock, lease)


def name_of(line: str) -> str:
    """Return the name of a command of :data:`NEEDED`, as ACL rules write it."""
    words = line.split()
    return "|".join(words[:2]) if words[0] == "CLIENT" else words[0]


def config_of(store: RedisDataStore, name: str) -> Optional[str]:
    """Return one setting of the server; None when it may not be asked for."""
    try:
        found = {word(key): word(value) for key, value in pairs(store.ask("CONFIG", "GET", name)).items()}
    except StoreError:
        return None
    return found.get(name)


def _version(info: Dict[str, Any], store: RedisDataStore, notes: Notes) -> None:
    kind = "Valkey" if info.get("valkey_version") else "Redis"
    text = word(info.get("valkey_version") or info["redis_version"])
    numbers = tuple(int(number) for number in re.findall(r"\d+", text)[:2])
    floor = FLOORS[kind]
    if numbers < floor:
        notes.add(
            PROBLEM,
            "version",
            "the server is %s %s" % (kind, text),
            "Commands the library needs are missing there, or have never been tested with it.",
            "Use Redis %d.%d or later, or Valkey %d.%d or later." % (*FLOORS["Redis"], *FLOORS["Valkey"]),
        )
    else:
        notes.add(OK, "version", "%s %s" % (kind, text))


def _role(info: Dict[str, Any], store: RedisDataStore, notes: Notes) -> None:
    if word(info.get("role", "master")) != "master":
        notes.add(
            PROBLEM,
            "role",
            "the server is a replica",
            "Nothing can be claimed, reported or planned through it; what is read may be old.",
            "Use the address of the primary, or a redis+sentinel:// URL, which follows it.",
        )
    else:
        notes.add(OK, "role", "the server is a primary")


def _persistence(info: Dict[str, Any], store: RedisDataStore, notes: Notes) -> None:
    aof = int(info["aof_enabled"]) == 1
    broken = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_bgrewrite_status", "aof_last_write_status")
        if word(info.get(name, "ok")) != "ok"
    ]
    if broken:
        notes.add(
            PROBLEM,
            "persistence-failed",
            "the last save of the server failed (%s)" % some(broken),
            "A restart brings back old data, and the server may refuse writes until a save succeeds.",
            "Read the server's log: the disk is full, its folder is not writable, or there is no memory to fork.",
        )
    save = config_of(store, "save")
    if aof:
        notes.add(OK, "persistence", "the append-only file is on")
    elif save is None:
        notes.add(
            INFO,
            "persistence",
            "the append-only file is off; whether snapshots are on may not be asked",
            "A restart of the server may lose what was done since the last snapshot.",
            "See to it that the provider keeps the data over a restart.",
        )
    elif save.strip():
        notes.add(
            INFO,
            "persistence",
            "the append-only file is off, snapshots are on (%s)" % save,
            "After a crash of the server the work since the last snapshot is done again.",
            "Turn on the append-only file (appendonly yes) if doing it twice is expensive.",
        )
    else:
        notes.add(
            WARNING,
            "persistence",
            "the server keeps nothing on disk (no append-only file, no snapshots)",
            "A restart of the server forgets the plan and what is done: everything is planned and done again.",
            "CONFIG SET appendonly yes, and the same in the server's configuration file.",
        )


def _eviction(info: Dict[str, Any], store: RedisDataStore, notes: Notes) -> None:
    policy = word(info.get("maxmemory_policy") or store.eviction_policy() or "")
    if not policy:
        notes.add(
            INFO,
            "eviction",
            "the eviction policy may not be asked",
            "A server that evicts keys throws work away when memory runs out.",
            "See to it that maxmemory-policy is noeviction.",
        )
    elif policy != "noeviction":
        notes.add(
            PROBLEM,
            "eviction",
            "maxmemory-policy is %s" % policy,
            "When memory runs out the server throws keys away: partitions and the plan may vanish.",
            "CONFIG SET maxmemory-policy noeviction, and the same in the server's configuration file.",
        )
    else:
        notes.add(OK, "eviction", "nothing is evicted")


def _memory(info: Dict[str, Any], store: RedisDataStore, notes: Notes) -> None:
    if "used_memory" not in info:
        raise StoreError("the server does not say how much it uses")
    limit = int(info.get("maxmemory") or config_of(store, "maxmemory") or 0)
    used = int(info["used_memory"])
    share = used / limit if limit else 0.0
    if share >= TIGHT:
        notes.add(
            PROBLEM if share >= FULL else WARNING,
            "memory",
            "%.0f %% of maxmemory is used (%d of %d MiB)" % (100 * share, used >> 20, limit >> 20),
            "When it is full the server refuses writes: nothing can be claimed, reported or planned.",
            "Raise maxmemory, move other data away, or keep fewer completed partitions (archive_keep).",
        )
    else:
        notes.add(OK, "memory", "%d MiB used, limit %s" % (used >> 20, "%d MiB" % (limit >> 20) if limit else "none"))


def _rights(store: RedisDataStore, notes: Notes) -> None:
    asked = [*NEEDED, *HINTS]
    reply = store.run("store/permitted", [store.keys["meta"]], [store.keys.channel, *asked])
    if not reply[0]:
        notes.add(
            INFO,
            "acl",
            "this server cannot tell what its user may do (before 7.0)",
            "A missing right shows when it is needed.",
            "Give the user +@all on the keys %s and the channel %s." % (store.keys.pattern, store.keys.channel),
        )
        return
    refused = [asked[number - 1] for number in reply[1:]]
    needed = [name_of(line) for line in refused if line in NEEDED]
    hints = [name_of(line) for line in refused if line in HINTS]
    if needed:
        notes.add(
            PROBLEM,
            "acl",
            "this user may not run %s" % some(needed),
            "Some steps of the work are refused, at the worst moment for the first time.",
            "ACL SETUSER <user> %s ~%s" % (" ".join("+" + name.lower() for name in needed), store.keys.pattern),
        )
    if hints:
        notes.add(
            WARNING,
            "acl-pubsub",
            "this user may not use %s on the channel %s" % (some(hints), store.keys.channel),
            "Workers are not woken by each other: new work is seen at the next poll, seconds later.",
            "ACL SETUSER <user> +publish +subscribe +unsubscribe &%s" % store.keys.channel,
        )
    if not refused:
        notes.add(OK, "acl", "this user may run all that is needed")


def _clocks(store: RedisDataStore, notes: Notes, clock: Clock) -> None:
    before, here = clock.monotonic(), clock.time()
    there = store.now()
    trip = clock.monotonic() - before
    apart = there - (here + trip / 2)
    if abs(apart) > CLOCK_APART + trip / 2:
        notes.add(
            WARNING,
            "clock",
            "the server's clock is %.1f s %s this host's" % (abs(apart), "ahead of" if apart > 0 else "behind"),
            "Leases go by the server's clock alone, so work is safe; times in logs and reports do not fit together.",
            "Set both clocks by NTP; correct the server's in small steps, never backwards in one.",
        )
    else:
        notes.add(OK, "clock", "the server's clock and this host's agree within %.1f s" % CLOCK_APART)
    last = int(word(store.ask("HGET", store.keys["meta"], "last") or b"0"))
    ahead = last / 1e6 - there
    if ahead > STAMP_AHEAD:
        notes.add(
            PROBLEM if ahead > _DAY else WARNING,
            "clock-stamp",
            "the namespace's last stamp is %.0f s ahead of the server's clock" % ahead,
            "The server's clock was set back, or its data come from a server whose clock was ahead. Tokens still grow;"
            " leases and retries that were stamped before run out later than meant.",
            "Set the server's clock right. If it is right, it catches up by itself after that time.",
        )


def _latency(store: RedisDataStore, notes: Notes, clock: Clock, lease: float) -> None:
    def measure(what: str) -> List[float]:
        out: List[float] = []
        started = clock.monotonic()
        while len(out) < SAMPLES and (not out or clock.monotonic() - started < MEASURE_FOR):
            before = clock.monotonic()
            if what == "PING":
                store.ask("PING")
            else:
                store.run("store/time", [store.keys["meta"]])
            out.append(clock.monotonic() - before)
        return sorted(out)

    store.ask("PING")  # the connection is made by now
    rows: List[Tuple[str, float, float]] = []
    for what in ("PING", "script"):
        times = measure(what)
        rows.append((what, times[len(times) // 2], times[min(len(times) - 1, int(len(times) * 0.99))]))
    text = "; ".join("%s p50 %.1f ms, p99 %.1f ms" % (what, p50 * 1e3, p99 * 1e3) for what, p50, p99 in rows)
    p50, p99 = max(row[1] for row in rows), max(row[2] for row in rows)
    bound = lease / 6
    if p50 > bound:
        notes.add(
            PROBLEM,
            "latency",
            "round trips take longer than a sixth of a lease (%.0f ms): %s" % (bound * 1e3, text),
            "That is the deadline of one call: heartbeats fail, leases are lost, work is done twice.",
            "Run the workers nearer to the server, or lengthen partition_lock_expiry and worker_ttl.",
        )
    elif p99 > bound / 2:
        notes.add(
            WARNING,
            "latency",
            "some round trips come near a sixth of a lease (%.0f ms): %s" % (bound * 1e3, text),
            "That is the deadline of one call: a little more, and heartbeats fail.",
            "Look for slow commands (SLOWLOG GET), a busy host, or a long way to the server.",
        )
    else:
        notes.add(OK, "latency", text)
