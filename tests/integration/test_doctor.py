"""``elk doctor``: faults planted one by one in a real server are each found, and a healthy namespace has none."""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import Any, Callable, Dict, Iterator, List

import pytest
import redis

from elk_coordinator import AdminClient, Coordinator, CreatePartition, RedisDataStore, StrategyType, create_strategy
from elk_coordinator.admin.doctor import diagnose
from elk_coordinator.admin.doctor_server import HINTS, NEEDED, name_of
from elk_coordinator.admin.findings import INFO, OK, PROBLEM, SEVERITIES, WARNING, Diagnosis, Finding
from elk_coordinator.cli.main import main
from elk_coordinator.model import Outcome, PartitionStatus, Report
from elk_coordinator.runtime.clock import Clock
from elk_coordinator.store import keys as keys_module
from elk_coordinator.store.keys import KEY_TYPES, KeySpace
from elk_coordinator.store.scripts import load
from elk_coordinator.testing import EmbeddedServer, wait_until
from tests.integration.conftest import QUICK, Counting, Numbers

HASH, SIMPLE = StrategyType.HASH, StrategyType.SIMPLE
NAME = "job"
KEYS = KeySpace(NAME)
FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(keys_module.__file__)))


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """A server set up as it should be: it keeps what it was told."""
    made = EmbeddedServer(persistence="aof", own=True, prefer=os.environ.get("ELK_TEST_SERVER") or None).start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Any]:
    server.flush()
    with contextlib.closing(redis.Redis.from_url(server.url)) as made:
        yield made


@pytest.fixture
def store(server: EmbeddedServer, client: Any) -> Iterator[RedisDataStore]:
    with contextlib.closing(RedisDataStore.from_url(server.url)) as made:
        yield made


def fill(store: RedisDataStore, kind: StrategyType, completed: int = 3) -> Any:
    """Plan 20 partitions and complete some."""
    strategy = create_strategy(kind, NAME, store)
    strategy.create_partitions_if_not_exist(CreatePartition(n, n * 10, n * 10 + 9) for n in range(1, 21))
    if completed:
        done = strategy.claim_partitions("w", completed)
        strategy.report_partitions(
            "w", [Report(p.partition_id, p.fencing_token, Outcome.COMPLETED, processed=10) for p in done]
        )
    return strategy


def beat(store: RedisDataStore, worker: str, **info: Any) -> None:
    store.namespaced(NAME).beat(worker, 60.0, info)


def bad(diagnosis: Diagnosis) -> List[Finding]:
    return [finding for finding in diagnosis.findings if finding.severity in (WARNING, PROBLEM)]


def found(store: RedisDataStore, code: str, severity: str, words: str, **options: Any) -> Diagnosis:
    """Examine, and see that what was planted is named, in full."""
    diagnosis = diagnose(NAME, store, **options)
    named = [finding for finding in bad(diagnosis) if finding.code == code]
    assert named, [(finding.code, finding.found) for finding in bad(diagnosis)]
    assert [finding.severity for finding in named] == [severity], named
    assert re.search(words, named[0].found), named[0].found
    assert named[0].means and named[0].do
    assert diagnosis.healthy == (not [finding for finding in bad(diagnosis) if finding.severity == PROBLEM])
    return diagnosis


def contents(client: Any) -> Dict[bytes, bytes]:
    return {key: client.dump(key) for key in client.scan_iter()}


both = pytest.mark.parametrize("kind", [HASH, SIMPLE], ids=["hash", "simple"])


# -- nothing planted, nothing found ----------------------------------------------------------------------------------


@both
def test_a_clean_namespace_has_no_finding_above_info_and_nothing_is_written(
    kind: StrategyType, store: RedisDataStore, client: Any
) -> None:
    fill(store, kind)
    # Long dead: who asks for the workers in the usual way removes them.
    client.zadd(KEYS["workers"], {"dead": 1})
    client.hset(KEYS["worker_info"], "dead", "{}")
    before = contents(client)
    diagnosis = diagnose(NAME, store)
    assert [(finding.code, finding.found) for finding in bad(diagnosis)] == []
    assert diagnosis.healthy
    assert {finding.code for finding in diagnosis.of(OK)} >= {
        "version", "role", "persistence", "eviction", "memory", "clock", "latency", "keys-type", "keys-unknown",
        "schema", "audit", *(["acl"] if tells_rights(client) else []),
    }  # fmt: skip
    assert contents(client) == before


def test_a_name_nobody_used_is_no_fault(store: RedisDataStore, client: Any) -> None:
    diagnosis = diagnose(NAME, store)
    assert bad(diagnosis) == [] and "empty" in {finding.code for finding in diagnosis.of(INFO)}
    assert client.dbsize() == 0


@both
def test_beside_a_working_fleet(kind: StrategyType, store: RedisDataStore) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            coordinator = Coordinator(
                namespace=NAME, store=store, processor=Counting(), planner=Numbers(200), strategy=kind, **QUICK
            )
            stack.enter_context(coordinator)
        strategy = create_strategy(kind, NAME, store)
        wait_until(lambda: strategy.get_partition_stats().completed == 20, 20, "the end of the work")
        wait_until(lambda: len(strategy.workers()) == 2 and strategy.leader() is not None, 10, "two workers, one leads")
        diagnosis = diagnose(NAME, store)
    assert [(finding.code, finding.found) for finding in bad(diagnosis)] == []
    assert {"config", "leader", "workers"} <= {finding.code for finding in diagnosis.of(OK)}


# The way to switch off a cluster client's own retries that older drivers know, too.
@both
def test_in_a_cluster(kind: StrategyType, new_server: Callable[..., EmbeddedServer]) -> None:
    server = new_server(persistence="aof", extra_args=("--cluster-enabled", "yes"))
    with contextlib.closing(redis.Redis.from_url(server.url)) as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        wait_until(lambda: client.cluster("INFO")["cluster_state"] == "ok", 20, "a cluster that serves")
        url = "redis+cluster://" + server.url.split("//")[1].split("/")[0]
        with contextlib.closing(RedisDataStore.from_url(url)) as store:
            fill(store, kind)
            assert [(finding.code, finding.found) for finding in bad(diagnose(NAME, store))] == []
            client.set(KEYS["cache"], "x")
            diagnosis = found(store, "keys-unknown", WARNING, "not ours: cache$")
            # And nothing could not be asked.
            unknown = set() if tells_rights(client) else {"acl"}
            assert {finding.code for finding in diagnosis.of(INFO)} == {"workers", "leader"} | unknown


# -- the server ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def setting(client: Any, **values: str) -> Iterator[None]:
    before = {name: client.config_get(name)[name] for name in (key.replace("_", "-") for key in values)}
    for key, value in values.items():
        client.config_set(key.replace("_", "-"), value)
    try:
        yield
    finally:
        for name, value in before.items():
            client.config_set(name, value)


@pytest.mark.parametrize("version, kind", [("6.0.16", "redis"), ("5.0.7", "redis"), ("7.1.9", "valkey")])
def test_an_old_server(
    version: str, kind: str, store: RedisDataStore, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = RedisDataStore.ask

    def ask(self: RedisDataStore, *words: Any) -> Any:
        answer = plain(self, *words)
        if words[0] == "INFO":
            answer.pop("valkey_version", None)
            answer[kind + "_version"] = version
        return answer

    monkeypatch.setattr(RedisDataStore, "ask", ask)
    found(store, "version", PROBLEM, version)


def test_nothing_is_kept_on_disk(new_server: Callable[..., EmbeddedServer]) -> None:
    with contextlib.closing(RedisDataStore.from_url(new_server().url)) as store:
        found(store, "persistence", WARNING, "nothing on disk")


def test_the_last_save_failed(store: RedisDataStore, client: Any) -> None:
    path = os.path.join(client.config_get("dir")["dir"], client.config_get("dbfilename")["dbfilename"])
    os.mkdir(path)
    client.bgsave()
    wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", 20, "a save that fails")
    try:
        found(store, "persistence-failed", PROBLEM, "rdb_last_bgsave_status")
    finally:
        os.rmdir(path)
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok", 20, "a save that succeeds")


def test_the_server_evicts(store: RedisDataStore, client: Any) -> None:
    with setting(client, maxmemory_policy="allkeys-lru"):
        found(store, "eviction", PROBLEM, "allkeys-lru")


@pytest.mark.parametrize("share, severity", [(0.97, PROBLEM), (0.87, WARNING)])
def test_memory_is_nearly_full(share: float, severity: str, store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    client.setrange("ballast", 30_000_000, "x")  # grown there: a buffer that is freed would change what is measured
    used = client.info("memory")["used_memory"]
    with setting(client, maxmemory=str(int(used / share))):
        found(store, "memory", severity, "% of maxmemory")


def test_a_replica(store: RedisDataStore, client: Any) -> None:
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        found(store, "role", PROBLEM, "replica")
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")


def tells_rights(client: Any) -> bool:
    """Return whether a script of this server can ask what its user may do."""
    return int(client.info("server")["redis_version"].split(".")[0]) >= 7


@contextlib.contextmanager
def as_user(server: EmbeddedServer, client: Any, *rules: str) -> Iterator[RedisDataStore]:
    client.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">secret", "~elk:*", *rules)
    try:
        with contextlib.closing(RedisDataStore.from_url(server.url.replace("//", "//limited:secret@"))) as store:
            yield store
    finally:
        client.execute_command("ACL", "DELUSER", "limited")


def test_a_command_is_forbidden(server: EmbeddedServer, store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    with as_user(server, client, "&*", "+@all", "-zadd", "-hincrby") as limited:
        if tells_rights(client):
            found(limited, "acl", PROBLEM, "HINCRBY, ZADD")
        else:
            assert "acl" in {finding.code for finding in diagnose(NAME, limited).of(INFO)}


def test_scripts_are_forbidden(server: EmbeddedServer, store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    with as_user(server, client, "&*", "+@all", "-@scripting") as limited:
        found(limited, "acl", PROBLEM, "(?i)permission|may not|refuses")


@pytest.mark.parametrize(
    "rules", [("&*", "+@all", "-@pubsub"), ("resetchannels", "+@all"), ("resetchannels", "&other", "+@all")]
)
def test_pub_sub_is_forbidden(rules: Any, server: EmbeddedServer, store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    with as_user(server, client, *rules) as limited:
        if tells_rights(client):
            found(limited, "acl-pubsub", WARNING, "PUBLISH")
        else:
            assert "acl" in {finding.code for finding in diagnose(NAME, limited).of(INFO)}


@both
def test_what_may_not_be_asked_is_said_and_no_fault(
    kind: StrategyType, server: EmbeddedServer, store: RedisDataStore, client: Any
) -> None:
    fill(store, kind)
    needed = ["+" + name_of(line).lower() for line in (*NEEDED, *HINTS)]
    with as_user(server, client, "&*", *needed) as limited:
        diagnosis = diagnose(NAME, limited)
    assert [(finding.code, finding.found) for finding in bad(diagnosis)] == []
    assert {"info", "eviction", "memory", "keys-unknown"} <= {finding.code for finding in diagnosis.of(INFO)}


class Wrong(Clock):
    """This host's clock, so far off, and so much later at each look."""

    def __init__(self, apart: float = 0.0, step: float = 0.0) -> None:
        super().__init__()
        self.apart, self.step, self.looks = apart, step, 0

    def time(self) -> float:
        return super().time() + self.apart

    def monotonic(self) -> float:
        self.looks += 1
        return self.looks * self.step


def test_the_clocks_differ(store: RedisDataStore, client: Any) -> None:
    found(store, "clock", WARNING, "ahead of", clock=Wrong(-100.0))
    found(store, "clock", WARNING, "behind", clock=Wrong(100.0))


@pytest.mark.parametrize("seconds, severity", [(600, WARNING), (200_000, PROBLEM)])
def test_the_servers_clock_was_set_back(seconds: int, severity: str, store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    client.hincrby(KEYS["meta"], "last", seconds * 1_000_000)
    found(store, "clock-stamp", severity, "ahead of the server's clock")


def test_round_trips_are_slow_for_the_leases_in_use(store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    beat(store, "w1", settings={"lease": 3.0})
    found(store, "latency", PROBLEM, r"a sixth of a lease \(500 ms\)", clock=Wrong(step=0.6))
    found(store, "latency", WARNING, "come near", clock=Wrong(step=0.3))
    assert "latency" not in {finding.code for finding in bad(diagnose(NAME, store, clock=Wrong(step=0.1)))}


# -- the keys --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*sorted(KEY_TYPES), "lock:leader", "value:simple"])
def test_a_key_of_a_wrong_type(name: str, store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    client.delete(KEYS[name])
    client.rpush(KEYS[name], "x")
    found(store, "keys-type", PROBLEM, "%s is a list" % name)


def test_the_table_of_keys_is_the_one_that_is_checked() -> None:
    table = dict(re.findall(r"^([a-z_]+) +(hash|zset|set|stream) ", str(keys_module.__doc__), re.MULTILINE))
    assert table == dict(KEY_TYPES)


def test_every_command_of_a_script_is_among_those_asked_for() -> None:
    used = set()
    for home in ("store", "partition"):
        for file in os.listdir(os.path.join(FOLDER, home, "lua")):
            source = load("%s/%s" % (home, file[:-4])).source
            used |= set(re.findall(r"redis\.p?call\('([A-Z]+)'", source))
    assert len(used) > 20
    assert used - {line.split()[0] for line in (*NEEDED, *HINTS)} == set()


def test_an_unknown_key(store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    client.set(KEYS["cache"], "x")
    client.set("elk:{jobs}:cache", "of another namespace")
    diagnosis = found(store, "keys-unknown", WARNING, "not ours: cache$")
    assert diagnosis.healthy


@both
def test_a_key_that_will_expire(kind: StrategyType, store: RedisDataStore, client: Any) -> None:
    fill(store, kind)
    name = "specs" if kind is HASH else "value:simple"
    client.expire(KEYS[name], 1000)
    found(store, "keys-ttl", PROBLEM, name)


def test_a_newer_schema(store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    client.hset(KEYS["meta"], "schema", KeySpace.SCHEMA + 1)
    found(store, "schema", PROBLEM, "schema %d" % (KeySpace.SCHEMA + 1))


def test_data_of_both_strategies(store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    fill(store, SIMPLE)
    found(store, "strategy", PROBLEM, "both strategies")


def test_the_meta_record_is_gone(store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    client.delete(KEYS["meta"])
    found(store, "meta", PROBLEM, "last stamp")


def test_data_were_lost(store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    client.hset(KEYS["meta"], "lost", client.hget(KEYS["meta"], "last"))
    found(store, "data-lost", WARNING, "lost data")


# -- the records -----------------------------------------------------------------------------------------------------

ID = "%014x"


def change_document(store: RedisDataStore, change: Callable[[Any], None]) -> None:
    bound = store.namespaced(NAME)
    value = bound.get("simple")
    document = json.loads(value.data or b"{}")
    change(document)
    assert bound.compare_and_set("simple", value.version, json.dumps(document).encode()) is not None


def test_a_record_without_its_index(store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    client.zrem(KEYS["pending"], ID % 9)
    found(store, "audit", PROBLEM, "partition 9: it is pending, but the indexes say ''")


def test_an_index_without_its_record(store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    client.zadd(KEYS["pending"], {ID % 77: 0})
    found(store, "audit", PROBLEM, "partition 77: .* has no record")


@both
def test_a_planned_range_without_a_partition(kind: StrategyType, store: RedisDataStore, client: Any) -> None:
    fill(store, kind)
    if kind is HASH:
        client.hdel(KEYS["specs"], ID % 9)
        client.zrem(KEYS["pending"], ID % 9)
    else:
        change_document(store, lambda document: document["records"].pop("9"))
    found(store, "audit", PROBLEM, r"planned but held by no partition.*\[90, 99\]")


def test_records_set_aside(store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    client.sadd(KEYS["corrupt"], ID % 9)
    found(store, "corrupt", PROBLEM, "set aside: 9")


def test_a_damaged_document(store: RedisDataStore, client: Any) -> None:
    fill(store, SIMPLE)
    client.hset(KEYS["value:simple"], "data", b'{"records": 7')
    found(store, "stats", PROBLEM, "cannot be read")


@both
def test_a_damaged_chunk(kind: StrategyType, store: RedisDataStore, client: Any) -> None:
    strategy = fill(store, kind, completed=5)
    term = strategy.store.acquire_lock("leader", "w", 60.0, 0)
    assert strategy.archive_page(term, 0, int((strategy.store.now() + 1) * 1e6)) == 5
    assert bad(diagnose(NAME, store)) == []
    if kind is HASH:
        key, field = KEYS["archive"], next(iter(client.hkeys(KEYS["archive"])))
    else:
        key, field = next(client.scan_iter(match=KEYS["value:chunk-*"])), b"data"
    blob = client.hget(key, field)
    client.hset(key, field, blob[:-1] + bytes([blob[-1] ^ 1]))
    found(store, "archive", PROBLEM, "chunk")


@both
def test_a_lease_of_nobody_and_one_that_is_overdue(kind: StrategyType, store: RedisDataStore, client: Any) -> None:
    strategy = fill(store, kind, completed=0)
    beat(store, "alive")
    strategy.claim_partitions("alive", 1)
    strategy.claim_partitions("ghost", 1)
    diagnosis = found(store, "lease-orphan", WARNING, r"not alive: 2 \(ghost\)$")
    assert "lease-overdue" not in {finding.code for finding in bad(diagnosis)}
    if kind is HASH:
        client.zincrby(KEYS["leases"], -10_000_000, ID % 1)
    else:

        def overdue(document: Any) -> None:
            document["records"]["1"][17] -= 10_000

        change_document(store, overdue)
    found(store, "lease-overdue", WARNING, "taken back: 1$")


def test_a_worker_that_came_while_others_were_looked_at_is_no_ghost(
    store: RedisDataStore, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = fill(store, HASH)
    plain = type(strategy).get_partition_stats

    def late(self: Any) -> Any:
        if not client.zcard(KEYS["workers"]):
            beat(store, "late")
            strategy.claim_partitions("late", 1)
        return plain(self)

    monkeypatch.setattr(type(strategy), "get_partition_stats", late)
    assert [finding.code for finding in bad(diagnose(NAME, store))] == []
    assert client.zcard(KEYS["workers"]) == 1


@both
def test_a_cancel_for_nothing(kind: StrategyType, store: RedisDataStore, client: Any) -> None:
    fill(store, kind)
    if kind is HASH:
        client.hset(KEYS["cancels"], ID % 12, "C somebody")
    else:
        change_document(store, lambda document: document["cancels"].update({"12": ["C", "somebody"]}))
    found(store, "cancels", WARNING, "nobody holds: 12$")


@both
def test_failed_partitions(kind: StrategyType, store: RedisDataStore, client: Any) -> None:
    strategy = fill(store, kind)
    claimed = strategy.claim_partitions("w", 1)[0]
    strategy.report_partitions(
        "w", [Report(claimed.partition_id, claimed.fencing_token, Outcome.PERMANENT, error="no")]
    )
    assert strategy.get_partition(claimed.partition_id).status is PartitionStatus.FAILED
    found(store, "failed", WARNING, "1 partitions rest as failed")


def test_more_partitions_than_are_looked_at(store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    diagnosis = diagnose(NAME, store, every_one=19)
    assert bad(diagnosis) == [] and "audit" in {finding.code for finding in diagnosis.of(INFO)}


# -- the fleet -------------------------------------------------------------------------------------------------------


@both
def test_nobody_leads_though_planners_live(kind: StrategyType, store: RedisDataStore, client: Any) -> None:
    fill(store, kind)
    beat(store, "w1", plans=True)
    found(store, "leader", WARNING, "w1")


@both
def test_commands_wait_for_a_leader(kind: StrategyType, store: RedisDataStore, client: Any) -> None:
    fill(store, kind)
    AdminClient(NAME, store).pause()
    found(store, "commands", WARNING, "1 commands wait.*nobody leads")


def test_a_long_pause(store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    now_us = int(store.namespaced(NAME).now() * 1e6)
    client.hset(KEYS["meta"], "paused", now_us - 60 * 1_000_000)
    assert bad(diagnose(NAME, store)) == []
    client.hset(KEYS["meta"], "paused", now_us - 7200 * 1_000_000)
    found(store, "paused", WARNING, "for 120 minutes")


@pytest.mark.parametrize(
    "code, info, words",
    [
        ("hung", {"hung": 2}, "w1: 2"),
        ("breaker", {"breaker": "open", "breaker_reason": "the database is down"}, "w1 is open: the database is down"),
    ],
)
@both
def test_a_worker_in_trouble(
    kind: StrategyType, code: str, info: Dict[str, Any], words: str, store: RedisDataStore, client: Any
) -> None:
    fill(store, kind)
    beat(store, "w1", **info)
    found(store, code, WARNING, words)


def test_a_worker_that_says_nonsense(store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    beat(store, "w1")
    for nonsense in ("{", "[1]", '"x"'):
        client.hset(KEYS["worker_info"], "w1", nonsense)
        found(store, "worker-info", WARNING, "w1")
    beat(store, "w1", settings=[1], version={"a": 1}, hung="x", breaker=7, breaker_reason=[])
    assert diagnose(NAME, store).healthy


@pytest.mark.parametrize(
    "name, one, other",
    [("lease", 30.0, 10.0), ("worker_ttl", 30.0, 9.0), ("archive_keep", None, 100), ("strategy", "hash", "simple")],
)
def test_workers_configured_otherwise(name: str, one: Any, other: Any, store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    for worker, value in (("w1", one), ("w2", one), ("w3", other)):
        beat(store, worker, settings={name: value}, version="1.0")
    found(store, "config-" + name.replace("_", "-"), WARNING, "w1, w2.*w3|w3.*w1, w2")


def test_real_workers_configured_otherwise(store: RedisDataStore) -> None:
    with contextlib.ExitStack() as stack:
        for attempts in (3, 4):
            options: Dict[str, Any] = dict(QUICK, worker_id="w%d" % attempts, max_attempts=attempts)
            stack.enter_context(
                Coordinator(namespace=NAME, store=store, processor=Counting(), planner=Numbers(20), **options)
            )
        strategy = create_strategy(HASH, NAME, store)
        wait_until(lambda: len(strategy.workers()) == 2 and strategy.leader() is not None, 10, "two workers, one leads")
        diagnosis = found(store, "config-max-attempts", WARNING, "3: w3; 4: w4$")
    assert [finding.code for finding in bad(diagnosis)] == ["config-max-attempts"]


def test_workers_of_two_versions(store: RedisDataStore, client: Any) -> None:
    fill(store, HASH)
    beat(store, "w1", version="0.1.0")
    beat(store, "w2", version="0.2.0")
    found(store, "config-version", WARNING, '"0.1.0": w1; "0.2.0": w2')


# -- the command line ------------------------------------------------------------------------------------------------


def test_on_the_command_line(
    server: EmbeddedServer, store: RedisDataStore, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(store, HASH)
    words = ["doctor", "--namespace", NAME, "--redis", server.url]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "job: 0 problems, 0 warnings" in said and "OK " not in said
    assert main([*words, "--all"]) == 0
    assert "OK       version" in capsys.readouterr().out
    client.set(KEYS["cache\x1b[2J"], "x")
    assert main(words) == 0, "a warning is no error"
    said = capsys.readouterr().out
    assert "WARNING  keys-unknown" in said and "do     Find out" in said and "\x1b" not in said
    client.sadd(KEYS["corrupt"], ID % 9)
    assert main([*words, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["namespace"] == NAME and document["healthy"] is False
    severities = [finding["severity"] for finding in document["findings"]]
    assert severities[0] == PROBLEM and severities == sorted(severities, key=SEVERITIES.index, reverse=True)
    assert set(document["findings"][0]) == {"code", "severity", "found", "means", "do"}


def test_a_server_that_does_not_answer(
    new_server: Callable[..., EmbeddedServer], capsys: pytest.CaptureFixture[str]
) -> None:
    server = new_server()
    server.kill()
    assert main(["doctor", "--namespace", NAME, "--redis", server.url]) == 1
    assert "could not be reached" in capsys.readouterr().err
