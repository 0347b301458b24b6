"""The part of ``elk doctor`` that looks at keys: their types and TTL, keys that are not ours, schema and strategy."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Set

from elk_coordinator.admin.findings import INFO, OK, PROBLEM, WARNING, Notes, pairs, some, word
from elk_coordinator.model import StrategyType
from elk_coordinator.partition.simple_strategy import DOCUMENT
from elk_coordinator.store.keys import KEY_TYPES, KeySpace, type_of
from elk_coordinator.store.redis_store import RedisDataStore

#: Keys asked for per page of SCAN, and pages: databases larger than that are not searched to their end.
PAGE, PAGES = 1000, 1000
#: What entries look like, by the keys that hold them. The ids of workers and commands may be anything.
_FORMS = {
    "specs state done pending suspects delayed leases claimed failed cancels corrupt": r"[0-9a-f]{14}\Z",
    "archive archive_index": r"\d{14}\Z",
    "planned skipped pruned": r"\d{20}:\d{20}\Z",
}
_SCANS = {"hash": "HSCAN", "zset": "ZSCAN", "set": "SSCAN"}
_NUMBERS = ("last", "schema", "planned_version", "max_id", "archived", "pruned", "low_water", "config_version", "lost")
#: Keys of a kind without end (values, locks) whose type and TTL are looked at.
_MANY = 2000


def examine_keys(store: RedisDataStore, notes: Notes) -> None:
    """Look at every key of the namespace."""
    names = sorted(set(KEY_TYPES) | {"lock:leader", "value:" + DOCUMENT, "value:gaps"})
    with notes.looking("keys-unknown", "unknown keys (SCAN)"):
        found = _scan(store, notes)
        unknown = sorted(name for name in found if type_of(name) is None)
        names = sorted(set(names) | {name for name in found if type_of(name)})[:_MANY]
        if unknown:
            notes.add(
                WARNING,
                "keys-unknown",
                "keys under %s that are not ours: %s" % (store.keys.pattern, some(unknown)),
                "Something else writes under our prefix, or a newer version of the library does.",
                "Find out who writes them; 'elk purge' would remove them with the namespace.",
            )
        else:
            notes.add(OK, "keys-unknown", "every key under %s is ours" % store.keys.pattern)
    with notes.looking("keys-type", "the types of keys"):
        _types(store, notes, names)
    with notes.looking("keys-ttl", "the TTL of keys"):
        mortal = [name for name in names if int(store.ask("PTTL", store.keys[name])) >= 0]
        if mortal:
            notes.add(
                PROBLEM,
                "keys-ttl",
                "keys that will expire: %s" % some(mortal),
                "None of ours ever gets a TTL: what they hold will vanish, work with it.",
                "PERSIST each of them, and find out who sets it.",
            )
    with notes.looking("keys-foreign", "what stands in the keys"):
        _foreign(store, notes)
    with notes.looking("schema", "schema and strategy"):
        _meta(store, notes)


def _scan(store: RedisDataStore, notes: Notes) -> List[str]:
    """Return the names of all keys behind our prefix."""
    prefix = store.keys.pattern[:-1]
    out: Set[str] = set()
    cursor: Any = 0
    for _ in range(PAGES):
        cursor, page = store.ask("SCAN", cursor, "MATCH", store.keys.pattern, "COUNT", PAGE)
        if isinstance(cursor, dict):  # of a Cluster: by node, and only one was asked
            cursor = next(iter(cursor.values()))
        out.update(word(name)[len(prefix) :] for name in page if word(name).startswith(prefix))
        if int(cursor) == 0:
            return sorted(out)
    notes.add(INFO, "keys-scan", "the database is large: only some {:,} keys were searched".format(PAGE * PAGES))
    return sorted(out)


def _types(store: RedisDataStore, notes: Notes, names: List[str]) -> None:
    wrong = []
    for name in names:
        kind = word(store.ask("TYPE", store.keys[name]))
        if kind not in ("none", type_of(name)):
            wrong.append("%s is a %s, not a %s" % (name, kind, type_of(name)))
    if wrong:
        notes.add(
            PROBLEM,
            "keys-type",
            "keys of a wrong type: %s" % some(wrong),
            "Something else writes there; every step that needs them is refused.",
            "Find out who writes them and give him another prefix; bring back the key from a backup, or 'elk purge'.",
        )
    else:
        notes.add(OK, "keys-type", "every key has its type")


def _foreign(store: RedisDataStore, notes: Notes) -> None:
    odd = []
    for names, form in _FORMS.items():
        for name in names.split():
            if word(store.ask("TYPE", store.keys[name])) != type_of(name):
                continue  # not there, or named above
            page = store.ask(_SCANS[str(type_of(name))], store.keys[name], 0, "COUNT", PAGE)[1]
            members = page if type_of(name) == "set" else pairs(page)
            odd += ["%r in %s" % (word(item)[:60], name) for item in members if not re.match(form, word(item))]
    if odd:
        notes.add(
            PROBLEM,
            "keys-foreign",
            "entries of our keys that are not ours: %s" % some(sorted(odd)),
            "Something else writes there, or damaged them. Partitions go on; what is among the planned intervals stops "
            "all planning, so that nothing is planned twice.",
            "Find out who writes them, and remove them (HDEL, ZREM, SREM); then 'elk verify'.",
        )


def _meta(store: RedisDataStore, notes: Notes) -> None:
    meta: Dict[str, str] = {word(k): word(v) for k, v in pairs(store.ask("HGETALL", store.keys["meta"])).items()}
    damaged = sorted(name for name in _NUMBERS if not re.match(r"-?\d+\Z", meta.get(name, "0")))
    if damaged:
        notes.add(
            PROBLEM,
            "meta",
            "fields of meta that are no numbers: %s" % some(["%s is %r" % (n, meta[n][:60]) for n in damaged]),
            "What needs them is refused: planning for planned_version and max_id, every worker for schema.",
            "Find out who wrote them; bring them back from a backup.",
        )
        meta = {name: value for name, value in meta.items() if name not in damaged}
    schema, strategy = meta.get("schema"), meta.get("strategy")
    if schema is not None and not KeySpace.SCHEMA - 1 <= int(schema) <= KeySpace.SCHEMA:
        notes.add(
            PROBLEM,
            "schema",
            "the data have schema %s, this version of the library reads %d" % (schema, KeySpace.SCHEMA),
            "Workers of this version refuse the namespace.",
            "Use the version of the library that wrote it, or one that reads both.",
        )
    else:
        notes.add(OK, "schema", "schema %s" % (schema or "not yet written"))
    if strategy not in (None, *(kind.value for kind in StrategyType)):
        notes.add(
            PROBLEM, "strategy", "the namespace is said to run the unknown strategy %r" % strategy,
            "Every worker refuses it.", "Use the version of the library that wrote it, or 'elk purge'.",
        )  # fmt: skip
    hashed = bool(meta.get("planned_version")) or strategy == StrategyType.HASH.value
    if hashed and int(store.ask("EXISTS", store.keys["value:" + DOCUMENT])):
        notes.add(
            PROBLEM,
            "strategy",
            "the namespace holds data of both strategies",
            "Workers of two configurations were run on it: part of the work is invisible to the others, or done twice.",
            "Stop all workers, decide for one strategy, 'elk purge' and begin anew under a new namespace.",
        )
    if not meta.get("last") and any(
        int(store.ask("EXISTS", store.keys[name])) for name in ("specs", "done", "planned", "value:" + DOCUMENT)
    ):
        notes.add(
            PROBLEM,
            "meta",
            "the last stamp is gone from meta, though there are data",
            "Counters and versions begin anew, so that the plan may be refused or made twice.",
            "Stop the workers, and bring the namespace back from a backup or 'elk purge' it.",
        )
    lost = int(meta.get("lost") or 0)
    if lost and store.now() - lost / 1e6 < 86_400:
        notes.add(
            WARNING,
            "data-lost",
            "the store lost data within the last day (noticed %.0f s ago)" % max(0.0, store.now() - lost / 1e6),
            "It was restarted or failed over to older data. What was lost has been planned or done again.",
            "See to persistence and replication of the server; 'elk verify' tells whether everything adds up.",
        )
