"""Every option is checked alone and with the others; a refusal names the option, the value and the rule."""

from __future__ import annotations

import logging
from typing import Any, Dict

import attr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elk_coordinator.config import (
    CircuitBreakerConfig,
    CoordinatorConfig,
    CoordinatorOptions,
    check_namespace,
    check_options,
    default_worker_id,
    lease_margin,
    new_nonce,
    parse_address,
)
from elk_coordinator.errors import ConfigError, ElkError
from elk_coordinator.model import StrategyType

CONTRACT_DEFAULTS = {
    "strategy": StrategyType.HASH,
    "heartbeat_interval": 10.0,
    "partition_lock_expiry": 180.0,
    "leader_lock_expiry": 30.0,
    "leader_election_interval": 180.0,
    "worker_partition_multiple": 5,
    "allocation_interval": 30.0,
    "max_pending_partitions": 1000,
    "task_window_size": 3,
    "allow_preemption": True,
    "max_attempts": 3,
    "retry_backoff": (1.0, 60.0),
    "max_deliveries": 5,
    "circuit_breaker": CircuitBreakerConfig(
        consecutive_failures=3, total_failures=5, open_timeout=30.0, half_open_max=2, failure_window=300.0
    ),
    "stop_timeout": 25.0,
    "task_timeout": None,
    "metrics_enabled": True,
    "metrics_addr": "127.0.0.1:9464-9495",
    "admin_token": None,
    "listeners": (),
    "archive_keep": None,
    "gap_detector": None,
    "affinity": False,
}

SECONDS = [
    "heartbeat_interval",
    "worker_ttl",
    "partition_lock_expiry",
    "leader_lock_expiry",
    "leader_election_interval",
    "allocation_interval",
    "stop_timeout",
    "task_timeout",
]
NO_SECONDS = [-1, -0.001, "5", b"5", True, float("nan"), float("inf"), float("-inf"), 10**400, 1.1e9, [5], {}, object]
WHOLE = {
    "worker_partition_multiple": 100000,
    "max_pending_partitions": 10_000_000,
    "task_window_size": 1000,
    "max_attempts": 10_000,
    "max_deliveries": 10_000,
}
NO_WHOLE = [0, -1, 2.0, 2.5, "3", True, None, float("nan"), [3]]


def refused(name: str, value: Any, **others: Any) -> str:
    """Return the message with which the option is refused, after checking that it names option and value."""
    with pytest.raises(ConfigError) as caught:
        CoordinatorConfig(**{name: value}, **others)
    message = str(caught.value)
    assert message.startswith(name + ": ")
    assert "must be" in message
    assert "got %r" % (value,) in message
    assert isinstance(caught.value, ElkError) and isinstance(caught.value, ValueError)
    return message


# -- defaults and what follows from them


def test_defaults_are_those_of_the_contract() -> None:
    config = CoordinatorConfig()
    assert {name: getattr(config, name) for name in CONTRACT_DEFAULTS} == CONTRACT_DEFAULTS
    assert {field.name for field in attr.fields(CoordinatorConfig)} == set(CONTRACT_DEFAULTS) | {
        "worker_ttl",
        "worker_id",
        "logger",
    }


def test_an_editor_completes_every_option_and_no_other() -> None:
    assert list(CoordinatorOptions.__annotations__) == [field.name for field in attr.fields(CoordinatorConfig)]


def test_defaults_give_a_lease_of_thirty_seconds() -> None:
    config = CoordinatorConfig()
    assert (config.effective_worker_ttl, config.lease, config.beat_interval) == (30.0, 30.0, 10.0)
    assert config.lease < config.recovery_bound <= config.lease + 5
    # "By default a partition is cancelled after 27 s without the store."
    assert config.lease - lease_margin(config.lease) == pytest.approx(27.0)


@pytest.mark.parametrize(
    "options, lease, beat",
    [
        ({"heartbeat_interval": 1.0}, 3.0, 1.0),
        ({"worker_ttl": 20.0}, 20.0, 20.0 / 3),
        ({"worker_ttl": 600.0}, 180.0, 10.0),
        ({"partition_lock_expiry": 6.0}, 6.0, 2.0),
        ({"heartbeat_interval": 100.0}, 180.0, 60.0),
        ({"heartbeat_interval": 0.5, "worker_ttl": 1.0}, 1.0, 1.0 / 3),
    ],
)
def test_lease_and_beat_follow_from_the_options(options: Dict[str, Any], lease: float, beat: float) -> None:
    config = CoordinatorConfig(**options)
    assert (config.lease, config.beat_interval) == (lease, beat)


SPANS = st.floats(0.01, 1e6)


@given(beat=SPANS, ttl=st.none() | SPANS, lock=SPANS, lead=SPANS)
def test_what_is_accepted_is_always_renewed_in_time(beat: float, ttl: Any, lock: float, lead: float) -> None:
    try:
        config = CoordinatorConfig(
            heartbeat_interval=beat, worker_ttl=ttl, partition_lock_expiry=lock, leader_lock_expiry=lead
        )
    except ConfigError:
        return
    assert config.lease >= 1 and config.leader_lock_expiry >= 1
    # Two beats may be lost before the holder stops believing in its lease, and the worker is never dead between two.
    assert 2 * config.beat_interval < config.lease - lease_margin(config.lease)
    assert 2 * config.beat_interval <= config.effective_worker_ttl


def test_config_is_frozen_and_takes_keywords_only() -> None:
    config = CoordinatorConfig()
    with pytest.raises(attr.exceptions.FrozenInstanceError):
        config.task_window_size = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        CoordinatorConfig(StrategyType.HASH)  # type: ignore[misc]
    with pytest.raises(ConfigError, match="task_window_size"):
        attr.evolve(config, task_window_size=0)
    assert attr.evolve(config, task_window_size=7) == CoordinatorConfig(task_window_size=7)


# -- one option at a time


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", NO_SECONDS, ids=repr)
def test_durations_are_positive_finite_numbers(name: str, value: Any) -> None:
    assert "number of seconds" in refused(name, value)


@pytest.mark.parametrize("name", SECONDS)
def test_no_duration_but_stop_timeout_may_be_zero(name: str) -> None:
    if name == "stop_timeout":
        assert CoordinatorConfig(stop_timeout=0).stop_timeout == 0
    else:
        refused(name, 0)


@pytest.mark.parametrize("name", SECONDS)
def test_only_worker_ttl_and_task_timeout_may_be_none(name: str) -> None:
    if name in ("worker_ttl", "task_timeout"):
        assert getattr(CoordinatorConfig(**{name: None}), name) is None
    else:
        refused(name, None)


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [40, 40.5])
def test_durations_may_be_ints_and_floats(name: str, value: Any) -> None:
    others = {"worker_ttl": 100} if name == "heartbeat_interval" else {}
    assert getattr(CoordinatorConfig(**{name: value}, **others), name) == value


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_counts_are_whole_numbers_in_their_bounds(name: str) -> None:
    for value in NO_WHOLE + [WHOLE[name] + 1]:
        assert "whole number from 1 to %d" % WHOLE[name] in refused(name, value)
    for value in (1, WHOLE[name]):
        assert getattr(CoordinatorConfig(**{name: value}), name) == value


@pytest.mark.parametrize("value", [-1, 2.5, "3", True])
def test_archive_keep_is_none_or_a_count(value: Any) -> None:
    refused("archive_keep", value)
    assert [CoordinatorConfig(archive_keep=good).archive_keep for good in (None, 0, 5)] == [None, 0, 5]


@pytest.mark.parametrize("name", ["allow_preemption", "metrics_enabled", "affinity"])
@pytest.mark.parametrize("value", [0, 1, "true", None, "no"])
def test_flags_are_true_or_false(name: str, value: Any) -> None:
    assert "True or False" in refused(name, value)
    assert [getattr(CoordinatorConfig(**{name: good}), name) for good in (True, False)] == [True, False]


@pytest.mark.parametrize(
    "value",
    [
        (0, 1), (2, 1), (-1, 1), (1,), (1, 2, 3), 5, None, "ab", "12", ("1", "60"), ("1", 60.0), (1, None), (True, 60),
        (float("nan"), 60), (1, float("nan")), (1, float("inf")), (1, 10**400), {1.0, 60.0}, {1.0: 60.0},
    ],
    ids=repr,
)  # fmt: skip
def test_retry_backoff_is_two_ordered_durations(value: Any) -> None:
    refused("retry_backoff", value)


def test_retry_backoff_list_becomes_a_tuple() -> None:
    assert CoordinatorConfig(retry_backoff=[1, 2.5]).retry_backoff == (1, 2.5)  # type: ignore[arg-type]
    assert CoordinatorConfig(retry_backoff=(5, 5)).retry_backoff == (5, 5)


@pytest.mark.parametrize("value", ["hash", "HASH", StrategyType.HASH])
def test_strategy_may_be_text(value: Any) -> None:
    assert CoordinatorConfig(strategy=value).strategy is StrategyType.HASH


@pytest.mark.parametrize("value", ["", "redis", "hash ", None, 1, True])
def test_unknown_strategy_is_refused(value: Any) -> None:
    assert "StrategyType.HASH or StrategyType.SIMPLE" in refused("strategy", value)


@pytest.mark.parametrize(
    "text, host, first, last",
    [
        ("127.0.0.1:0", "127.0.0.1", 0, 0),
        ("127.0.0.1:9464-9495", "127.0.0.1", 9464, 9495),
        ("localhost:80", "localhost", 80, 80),
        ("[::1]:9464", "::1", 9464, 9464),
        ("0.0.0.0:65535", "0.0.0.0", 65535, 65535),
        ("a-host.example:1-1", "a-host.example", 1, 1),
    ],
)
def test_address_is_host_and_port_or_range(text: str, host: str, first: int, last: int) -> None:
    assert parse_address(text) == (host, first, last)
    assert CoordinatorConfig(metrics_addr=text).metrics_addr == text


@pytest.mark.parametrize(
    "value",
    [
        "", "localhost", "127.0.0.1", "127.0.0.1:", "127.0.0.1:-1", "127.0.0.1:65536", "127.0.0.1:99999", "h:9-8",
        ":9464", "h:0-5", "h:1-65536", "h:1-", "h:a", "h:1\n", "h :1", "::1:9464", "http://h:1", "h:\u0661", 9464, None,
        b"h:1", ("h", 1),
    ],
    ids=repr,
)  # fmt: skip
def test_bad_addresses_are_refused(value: Any) -> None:
    assert "host:port" in refused("metrics_addr", value)


@pytest.mark.parametrize("value", ["", "a b", "a\n", "ä", "x" * 201, 5, b"w"])
def test_bad_worker_ids_are_refused(value: Any) -> None:
    assert "printable ASCII" in refused("worker_id", value)


def test_worker_ids_may_be_any_printable_text() -> None:
    for value in (None, "w", "host-1/a:b{c}", "x" * 200):
        assert CoordinatorConfig(worker_id=value).worker_id == value


@pytest.mark.parametrize(
    "value", ["", "short77", "with space here", "with-newline\n", "schlüssel-lang", b"12345678", 12345678]
)
def test_bad_admin_tokens_are_refused_without_showing_them(value: Any) -> None:
    with pytest.raises(ConfigError, match="^admin_token: must be") as caught:
        CoordinatorConfig(admin_token=value)
    assert not value or str(value) not in str(caught.value)


def test_admin_token_does_not_show_in_repr() -> None:
    assert "open-sesame" not in repr(CoordinatorConfig(admin_token="open-sesame"))
    assert "admin_token='***'" in repr(CoordinatorConfig(admin_token="open-sesame"))
    assert "admin_token=None" in repr(CoordinatorConfig())


class Ear:
    def on_started(self, event: Any) -> None: ...


def test_listeners_may_be_one_or_several() -> None:
    one, other = Ear(), Ear()
    assert CoordinatorConfig(listeners=one).listeners == (one,)  # type: ignore[arg-type]
    assert CoordinatorConfig(listeners=[one, other]).listeners == (one, other)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, "on_started", 5, {"on_started": print}, [None], {1}], ids=repr)
def test_what_cannot_listen_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="^listeners: must be objects with on_"):
        CoordinatorConfig(listeners=value)


def test_logger_is_a_standard_logger() -> None:
    logger = logging.getLogger("test")
    assert CoordinatorConfig(logger=logger).logger is logger
    adapter: Any = logging.LoggerAdapter(logger, {})
    assert CoordinatorConfig(logger=adapter).logger is adapter
    for value in ("test", print, 5):
        refused("logger", value)


# -- options together


@pytest.mark.parametrize("ttl", [19.9, 10, 1])
def test_worker_ttl_below_twice_the_heartbeat_is_refused(ttl: float) -> None:
    assert "at least twice heartbeat_interval (10)" in refused("worker_ttl", ttl)
    assert CoordinatorConfig(worker_ttl=20).worker_ttl == 20


@pytest.mark.parametrize(
    "options",
    [{"heartbeat_interval": 0.3}, {"partition_lock_expiry": 0.99}, {"heartbeat_interval": 0.1, "worker_ttl": 0.9}],
)
def test_a_lease_under_a_second_is_refused(options: Dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^lease: min\(partition_lock_expiry=.*must be at least 1 second"):
        CoordinatorConfig(**options)


def test_a_leader_lease_under_a_second_is_refused() -> None:
    refused("leader_lock_expiry", 0.99)
    assert CoordinatorConfig(leader_lock_expiry=1).leader_lock_expiry == 1


# -- the circuit breaker


@pytest.mark.parametrize("name", ["consecutive_failures", "total_failures", "half_open_max"])
@pytest.mark.parametrize("value", NO_WHOLE, ids=repr)
def test_breaker_counts_are_whole_numbers(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match="^%s: must be a whole number" % name):
        CircuitBreakerConfig(**{name: value})


@pytest.mark.parametrize("name", ["open_timeout", "failure_window"])
@pytest.mark.parametrize("value", [*NO_SECONDS, 0, None], ids=repr)
def test_breaker_times_are_seconds(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match="^%s: must be a number of seconds above 0" % name):
        CircuitBreakerConfig(**{name: value})


def test_breaker_may_be_a_dict_an_object_or_none() -> None:
    mine = CircuitBreakerConfig(open_timeout=5)
    for value in (mine, {"open_timeout": 5}, {"OPEN_TIMEOUT": 5}):
        assert CoordinatorConfig(circuit_breaker=value).circuit_breaker == mine  # type: ignore[arg-type]
    assert CoordinatorConfig(circuit_breaker=None).circuit_breaker is None
    assert CoordinatorConfig(circuit_breaker={}).circuit_breaker == CircuitBreakerConfig()  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [True, False, 5, "none", [], CircuitBreakerConfig])
def test_breaker_of_another_kind_is_refused(value: Any) -> None:
    assert "CircuitBreakerConfig or None" in refused("circuit_breaker", value)


@pytest.mark.parametrize("value", [{"open_time": 5}, {1: 2}, {"": 1}], ids=repr)
def test_breaker_dict_with_an_unknown_name_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^circuit_breaker\..*: no such option; known are .*open_timeout"):
        CoordinatorConfig(circuit_breaker=value)


# -- from_mapping


def test_from_mapping_takes_names_in_either_case() -> None:
    config = CoordinatorConfig.from_mapping(
        {"TASK_WINDOW_SIZE": 8, "strategy": "hash", "retry_backoff": [2, 30], "CIRCUIT_BREAKER": {"OPEN_TIMEOUT": 1}}
    )
    assert config == CoordinatorConfig(
        task_window_size=8, retry_backoff=(2, 30), circuit_breaker=CircuitBreakerConfig(open_timeout=1)
    )
    assert CoordinatorConfig.from_mapping({}) == CoordinatorConfig()
    assert CoordinatorConfig.from_mapping({"circuit_breaker": None}).circuit_breaker is None


@pytest.mark.parametrize("values", [{"task_window": 8}, {"": 1}, {1: 2}, {None: 2}, {("a",): 1}], ids=repr)
def test_from_mapping_refuses_unknown_names(values: Any) -> None:
    with pytest.raises(ConfigError, match="no such option; known are .*task_window_size"):
        CoordinatorConfig.from_mapping(values)


def test_from_mapping_refuses_an_option_given_twice() -> None:
    with pytest.raises(ConfigError, match="task_window_size: given twice"):
        CoordinatorConfig.from_mapping({"TASK_WINDOW_SIZE": 8, "task_window_size": 9})


@pytest.mark.parametrize("values", [None, [("task_window_size", 8)], "task_window_size=8"])
def test_from_mapping_refuses_what_is_no_mapping(values: Any) -> None:
    with pytest.raises(ConfigError, match="mapping"):
        CoordinatorConfig.from_mapping(values)


def test_from_mapping_checks_like_the_constructor() -> None:
    with pytest.raises(ConfigError, match="^heartbeat_interval: .*got '5'"):
        CoordinatorConfig.from_mapping({"HEARTBEAT_INTERVAL": "5"})
    with pytest.raises(ConfigError, match="^open_timeout: "):
        CoordinatorConfig.from_mapping({"circuit_breaker": {"open_timeout": -1}})


# -- from_env


def env(prefix: str = "ELK_", **variables: str) -> CoordinatorConfig:
    return CoordinatorConfig.from_env(prefix, variables)


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("TASK_WINDOW_SIZE", "8", 8),
        ("TASK_WINDOW_SIZE", " 8 ", 8),
        ("HEARTBEAT_INTERVAL", "2.5", 2.5),
        ("STOP_TIMEOUT", "1e1", 10.0),
        ("TASK_TIMEOUT", "none", None),
        ("TASK_TIMEOUT", "NULL", None),
        ("TASK_TIMEOUT", "", None),
        ("ALLOW_PREEMPTION", "false", False),
        ("ALLOW_PREEMPTION", "No", False),
        ("METRICS_ENABLED", "off", False),
        ("AFFINITY", "True", True),
        ("AFFINITY", "YES", True),
        ("AFFINITY", "on", True),
        ("STRATEGY", "simple", StrategyType.SIMPLE),
        ("METRICS_ADDR", "0.0.0.0:9000-9010", "0.0.0.0:9000-9010"),
        ("WORKER_ID", "0815", "0815"),
        ("WORKER_ID", "true", "true"),
        ("WORKER_ID", "", None),
        ("ADMIN_TOKEN", "12345678", "12345678"),
        ("ADMIN_TOKEN", "TrueSecret", "TrueSecret"),
        ("ADMIN_TOKEN", "", None),
        ("RETRY_BACKOFF", "2,30", (2, 30)),
        ("RETRY_BACKOFF", "0.5, 1e2", (0.5, 100.0)),
        ("RETRY_BACKOFF", "[2, 30]", (2, 30)),
        ("CIRCUIT_BREAKER", "none", None),
        ("CIRCUIT_BREAKER", '{"open_timeout": 5}', CircuitBreakerConfig(open_timeout=5)),
        ("CIRCUIT_BREAKER_OPEN_TIMEOUT", "5", CircuitBreakerConfig(open_timeout=5)),
        ("ARCHIVE_KEEP", "0", 0),
    ],
)
def test_from_env_understands(name: str, text: str, value: Any) -> None:
    config = env(**{"ELK_" + name: text})
    option = "circuit_breaker" if name.startswith("CIRCUIT_BREAKER") else name.lower()
    assert getattr(config, option) == value
    assert type(getattr(config, option)) is type(value)
    assert attr.evolve(config, **{option: getattr(CoordinatorConfig(), option)}) == CoordinatorConfig()


@pytest.mark.parametrize(
    "name, text",
    [
        ("TASK_WINDOW_SIZE", "eight"),
        ("TASK_WINDOW_SIZE", "8.5"),
        ("TASK_WINDOW_SIZE", "1e1"),
        ("TASK_WINDOW_SIZE", "0x8"),
        ("TASK_WINDOW_SIZE", ""),
        ("HEARTBEAT_INTERVAL", "10s"),
        ("HEARTBEAT_INTERVAL", "NaN"),
        ("HEARTBEAT_INTERVAL", "Infinity"),
        ("HEARTBEAT_INTERVAL", "1e999"),
        ("HEARTBEAT_INTERVAL", "-1"),
        ("METRICS_ENABLED", "1"),
        ("METRICS_ENABLED", "maybe"),
        ("RETRY_BACKOFF", "2"),
        ("RETRY_BACKOFF", "2,3,4"),
        ("RETRY_BACKOFF", "2,"),
        ("STRATEGY", "redis"),
        ("STRATEGY", ""),
        ("METRICS_ADDR", "9464"),
        ("ADMIN_TOKEN", "short"),
        ("CIRCUIT_BREAKER", "true"),
        ("CIRCUIT_BREAKER", "5"),
        ("CIRCUIT_BREAKER", '{"open": 5}'),
        ("CIRCUIT_BREAKER_OPEN_TIMEOUT", "soon"),
        ("CIRCUIT_BREAKER_OPEN_TIMEOUT", "0"),
    ],
)
def test_from_env_refuses_and_names_the_option(name: str, text: str) -> None:
    option = name.replace("CIRCUIT_BREAKER_", "") if "_OPEN" in name else name
    with pytest.raises(ConfigError, match="(?i)%s" % option):
        env(**{"ELK_" + name: text})


def test_from_env_leaves_other_variables_alone() -> None:
    assert env(ELK_REDIS_URL="redis://h", ELK_NAMESPACE="n") == CoordinatorConfig()
    assert env(ELK_LISTENERS="x", ELK_LOGGER="y", ELK_GAP_DETECTOR="z") == CoordinatorConfig()
    assert env(TASK_WINDOW_SIZE="8", OTHER_TASK_WINDOW_SIZE="9", elk_task_window_size="9") == CoordinatorConfig()


def test_from_env_takes_another_prefix_and_the_real_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert env("JOBS_", JOBS_TASK_WINDOW_SIZE="8", ELK_TASK_WINDOW_SIZE="9").task_window_size == 8
    assert env("", TASK_WINDOW_SIZE="8").task_window_size == 8
    monkeypatch.setenv("ELKTEST_TASK_WINDOW_SIZE", "4")
    assert CoordinatorConfig.from_env("ELKTEST_").task_window_size == 4


@pytest.mark.parametrize("whole", ["none", '{"half_open_max": 1}'])
def test_from_env_refuses_two_sources_for_the_breaker(whole: str) -> None:
    with pytest.raises(ConfigError, match="ELK_CIRCUIT_BREAKER and ELK_CIRCUIT_BREAKER_"):
        env(ELK_CIRCUIT_BREAKER=whole, ELK_CIRCUIT_BREAKER_OPEN_TIMEOUT="5")


@given(st.text(max_size=30))
def test_from_env_answers_any_text_with_a_config_or_a_config_error(text: str) -> None:
    for field in attr.fields(CoordinatorConfig):
        try:
            env(**{"ELK_" + field.name.upper(): text})
        except ConfigError:
            pass


# -- names


@pytest.mark.parametrize("value", ["a", "orders", "Orders-2_x.y", "0", "x" * 100])
def test_good_namespaces_come_back(value: str) -> None:
    assert check_namespace(value) == value


@pytest.mark.parametrize("value", ["", "x" * 101, "a b", "a:b", "{a}", "a\n", "ä", "a/b", "*", None, 5, b"a"], ids=repr)
def test_bad_namespaces_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="^namespace must be 1 to 100 letters"):
        check_namespace(value)


def test_default_worker_id_is_a_good_one_whatever_the_host_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    nonce = new_nonce()
    assert nonce != new_nonce()
    for host in ("web-1", "", "größe host\n", "x" * 300):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        name = default_worker_id(nonce)
        assert CoordinatorConfig(worker_id=name).worker_id == name
        assert nonce[:6] in name


def test_check_options_names_the_unknown_one() -> None:
    check_options(["task_window_size", "listeners"])
    with pytest.raises(ConfigError, match="^task_window: no such option; known are .*task_window_size"):
        check_options(["task_window_size", "task_window"])
