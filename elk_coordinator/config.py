"""Settings of a coordinator: two frozen classes, every value checked, and the timing checked together.

Nothing is clamped: a bad value raises :class:`~elk_coordinator.errors.ConfigError` naming the option, the value and
the rule it breaks.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import uuid
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple, TypedDict, Union

import attr

from elk_coordinator.errors import ConfigError
from elk_coordinator.model import StrategyType

#: A namespace becomes part of keys, thread names and metric labels.
_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,100}\Z")
_WORKER_ID = re.compile(r"[!-~]{1,200}\Z")
#: It travels in an HTTP header.
_ADMIN_TOKEN = re.compile(r"[!-~]{8,1000}\Z")
#: No wait is longer (some 30 years): the system's own limit for a timeout is not much higher.
MAX_SECONDS = 1e9
#: Below it a lease cannot be renewed three times over a network that hiccups.
MIN_LEASE = 1.0
#: Share of a lease that a worker does not trust: clock rates of two machines differ a little.
MARGIN = 0.1


def check_namespace(namespace: Any) -> str:
    """Return *namespace* if it is 1 to 100 letters, digits, ``-``, ``_`` or ``.``.

    :raises ConfigError: otherwise.
    """
    if not isinstance(namespace, str) or not _NAMESPACE.match(namespace):
        raise ConfigError("namespace must be 1 to 100 letters, digits, '-', '_' or '.', not %r" % (namespace,))
    return namespace


def lease_margin(lease: float) -> float:
    """Return the seconds at the end of a lease in which its holder no longer believes in it."""
    return lease * MARGIN


#: The largest task window, also one made larger at run time: the pool of threads is made for it once.
LARGEST_WINDOW = 1000


def _refuse(name: str, value: Any, rule: str) -> ConfigError:
    return ConfigError("%s: %s (got %r)" % (name, rule, value))


def _is_seconds(value: Any) -> bool:
    # The comparison also refuses NaN, infinity and ints too large for a float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -MAX_SECONDS <= value <= MAX_SECONDS


def _seconds(minimum: float = 0.0, optional: bool = False, open_end: bool = True) -> Callable[..., None]:
    def check(_: Any, attribute: "attr.Attribute[Any]", value: Any) -> None:
        if value is None and optional:
            return
        if not _is_seconds(value) or not (value > minimum if open_end else value >= minimum):
            above = "above" if open_end else "of at least"
            rule = "must be a number of seconds %s %g and at most %g" % (above, minimum, MAX_SECONDS)
            raise _refuse(attribute.name, value, rule)

    return check


def _whole(minimum: int, maximum: int = 10**9, optional: bool = False) -> Callable[..., None]:
    def check(_: Any, attribute: "attr.Attribute[Any]", value: Any) -> None:
        if value is None and optional:
            return
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise _refuse(attribute.name, value, "must be a whole number from %d to %d" % (minimum, maximum))

    return check


def _detector(_: Any, attribute: "attr.Attribute[Any]", value: Any) -> None:
    if value is not None and (isinstance(value, type) or not callable(getattr(value, "detect", None))):
        raise _refuse(attribute.name, value, "must be an object with detect(ctx, planned, skipped), or None")


def _flag(_: Any, attribute: "attr.Attribute[Any]", value: Any) -> None:
    if not isinstance(value, bool):
        raise _refuse(attribute.name, value, "must be True or False")


def _backoff(_: Any, attribute: "attr.Attribute[Any]", value: Any) -> None:
    pair = isinstance(value, tuple) and len(value) == 2 and all(_is_seconds(item) for item in value)
    if not pair or not 0 < value[0] <= value[1]:
        rule = "must be two seconds (first, longest) with 0 < first <= longest <= %g" % MAX_SECONDS
        raise _refuse(attribute.name, value, rule)


def parse_address(value: Any) -> Tuple[str, int, int]:
    """Split ``"host:port"`` or ``"host:first-last"`` into host, first and last port; port 0 means any.

    :raises ConfigError: when it is neither.
    """
    text = value if isinstance(value, str) else ""
    match = re.match(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:\s]+):(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?\Z", text)
    if match is not None:
        first = int(match.group("first"))
        last = int(match.group("last") or first)
        if first <= last <= 65535 and (first > 0 or last == 0):
            return match.group("host").strip("[]"), first, last
    raise ConfigError("metrics_addr: must be 'host:port' or 'host:first-last', ports up to 65535 (got %r)" % (value,))


def _address(_: Any, attribute: "attr.Attribute[Any]", value: Any) -> None:
    parse_address(value)


def _worker_id(_: Any, attribute: "attr.Attribute[Any]", value: Any) -> None:
    if value is not None and not (isinstance(value, str) and _WORKER_ID.match(value)):
        raise _refuse(attribute.name, value, "must be 1 to 200 printable ASCII characters without spaces")


def _strategy(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return StrategyType(value.lower())
        except ValueError:
            return value
    return value


def _is_strategy(_: Any, attribute: "attr.Attribute[Any]", value: Any) -> None:
    if not isinstance(value, StrategyType):
        raise _refuse(attribute.name, value, "must be StrategyType.HASH or StrategyType.SIMPLE")


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _listeners(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _are_listeners(_: Any, attribute: "attr.Attribute[Any]", value: Any) -> None:
    for listener in value:
        if listener is None or isinstance(listener, (bool, int, float, str, bytes, dict, set, frozenset)):
            raise _refuse(attribute.name, listener, "must be objects with on_...(event) methods")


def _logger(_: Any, attribute: "attr.Attribute[Any]", value: Any) -> None:
    if value is not None and not isinstance(value, (logging.Logger, logging.LoggerAdapter)):
        raise _refuse(attribute.name, value, "must be a standard logger")


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class CircuitBreakerConfig:
    """When the worker stops claiming because the user's system is failing, and how it tries again."""

    #: Opens after so many failures in a row.
    consecutive_failures: int = attr.ib(default=3, validator=_whole(1))
    #: Opens when so many distinct partitions failed in the window and failures outnumber successes there.
    total_failures: int = attr.ib(default=5, validator=_whole(1))
    #: Seconds it stays open before probes are let through.
    open_timeout: float = attr.ib(default=30.0, validator=_seconds())
    #: Probes at the same time, and successes needed, while half-open.
    half_open_max: int = attr.ib(default=2, validator=_whole(1, 1000))
    #: Seconds of outcomes that ``total_failures`` looks at.
    failure_window: float = attr.ib(default=300.0, validator=_seconds())


def _breaker(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return CircuitBreakerConfig(**_known(CircuitBreakerConfig, value, "circuit_breaker."))


def _known(cls: type, values: Mapping[Any, Any], where: str = "") -> Dict[str, Any]:
    """Return *values* with their names in lower case; refuse names that are no option of *cls*, or given twice."""
    known = {field.name for field in attr.fields(cls)}
    given: Dict[str, Any] = {}
    for name, value in values.items():
        lower = name.lower() if isinstance(name, str) else name
        if lower not in known:
            raise ConfigError("%s%s: no such option; known are %s" % (where, name, ", ".join(sorted(known))))
        if lower in given:
            raise ConfigError("%s%s: given twice, in upper and in lower case" % (where, lower))
        given[lower] = value
    return given


def _is_breaker(_: Any, attribute: "attr.Attribute[Any]", value: Any) -> None:
    if value is not None and not isinstance(value, CircuitBreakerConfig):
        raise _refuse(attribute.name, value, "must be a CircuitBreakerConfig or None")


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class CoordinatorConfig:
    """Every option of a :class:`~elk_coordinator.Coordinator`, checked alone and together. Durations in seconds."""

    #: How partitions are kept.
    strategy: StrategyType = attr.ib(default=StrategyType.HASH, converter=_strategy, validator=_is_strategy)
    #: The worker proves itself alive and renews all it holds every ``min(heartbeat_interval, lease / 3)``.
    heartbeat_interval: float = attr.ib(default=10.0, validator=_seconds())
    #: A worker not heard of for so long is dead; default 3 x heartbeat_interval.
    worker_ttl: Optional[float] = attr.ib(default=None, validator=_seconds(optional=True))
    #: Upper bound of a partition's lease; lease = min(partition_lock_expiry, worker_ttl).
    partition_lock_expiry: float = attr.ib(default=180.0, validator=_seconds())
    #: The leader's lease, renewed at a third of it.
    leader_lock_expiry: float = attr.ib(default=30.0, validator=_seconds())
    #: Upper bound between two attempts of a follower.
    leader_election_interval: float = attr.ib(default=180.0, validator=_seconds())
    #: One planner question looks ahead partition_size x max(active workers, 3) x this.
    worker_partition_multiple: int = attr.ib(default=5, validator=_whole(1, 100000))
    #: Longest time between two allocation rounds.
    allocation_interval: float = attr.ib(default=30.0, validator=_seconds())
    #: No round leaves more than this many pending + claimed + running.
    max_pending_partitions: int = attr.ib(default=1000, validator=_whole(1, 10_000_000))
    #: Partitions one worker runs at the same time.
    task_window_size: int = attr.ib(default=3, validator=_whole(1, LARGEST_WINDOW))
    #: Whether a worker's claim may take partitions whose lease ran out.
    allow_preemption: bool = attr.ib(default=True, validator=_flag)
    #: Attempts of a failing partition.
    max_attempts: int = attr.ib(default=3, validator=_whole(1, 10_000))
    #: First and longest pause between attempts; exponential with jitter between.
    retry_backoff: Tuple[float, float] = attr.ib(default=(1.0, 60.0), converter=_pair, validator=_backoff)
    #: Times a partition may be lost by a dying worker before it rests as failed.
    max_deliveries: int = attr.ib(default=5, validator=_whole(1, 10_000))
    #: None switches the breaker off.
    circuit_breaker: Optional[CircuitBreakerConfig] = attr.ib(
        factory=CircuitBreakerConfig, converter=_breaker, validator=_is_breaker
    )
    #: How long stop() waits for running partitions.
    stop_timeout: float = attr.ib(default=25.0, validator=_seconds(open_end=False))
    #: At it, ctx is cancelled; None = as long as the lease is renewed.
    task_timeout: Optional[float] = attr.ib(default=None, validator=_seconds(optional=True))
    #: Whether the built-in HTTP thread runs.
    metrics_enabled: bool = attr.ib(default=True, validator=_flag)
    #: "host:port"; port 0 = any free one; a range = the first free.
    metrics_addr: str = attr.ib(default="127.0.0.1:9464-9495", validator=_address)
    #: Enables the writing part of the HTTP API.
    admin_token: Optional[str] = attr.ib(default=None, repr=lambda value: "None" if value is None else "'***'")
    #: A label; ownership never rests on it. Default: hostname-pid-nonce, made when the coordinator is built.
    worker_id: Optional[str] = attr.ib(default=None, validator=_worker_id)
    #: Objects with on_...(event) methods.
    listeners: Tuple[Any, ...] = attr.ib(default=(), converter=_listeners, validator=_are_listeners)
    #: Details of completed partitions kept: None = all, n = the newest n.
    archive_keep: Optional[int] = attr.ib(default=None, validator=_whole(0, 2**53, optional=True))
    #: Says where the leader looks for gaps; None = the built-in detector with its defaults.
    gap_detector: Optional[Any] = attr.ib(default=None, validator=_detector)
    #: Whether a worker prefers, among equals, what rendezvous hashing gives it.
    affinity: bool = attr.ib(default=False, validator=_flag)
    #: Standard logger; default ``elk_coordinator``.
    logger: Optional[logging.Logger] = attr.ib(default=None, validator=_logger)

    def __attrs_post_init__(self) -> None:
        ttl = self.effective_worker_ttl
        if ttl < 2 * self.heartbeat_interval:
            raise _refuse(
                "worker_ttl",
                ttl,
                "must be at least twice heartbeat_interval (%g), or one late beat makes the worker dead"
                % self.heartbeat_interval,
            )
        if self.lease < MIN_LEASE:
            raise ConfigError(
                "lease: min(partition_lock_expiry=%g, worker_ttl=%g) must be at least %g second(s); shorter ones "
                "cannot be renewed in time" % (self.partition_lock_expiry, ttl, MIN_LEASE)
            )
        if self.leader_lock_expiry < MIN_LEASE:
            raise _refuse("leader_lock_expiry", self.leader_lock_expiry, "must be at least %g second(s)" % MIN_LEASE)
        token = self.admin_token
        if token is not None and not (isinstance(token, str) and _ADMIN_TOKEN.match(token)):
            # Without the value: it is a secret.
            raise ConfigError("admin_token: must be 8 to 1000 printable ASCII characters without spaces")

    @property
    def effective_worker_ttl(self) -> float:
        """``worker_ttl``, or its default of three heartbeats."""
        return 3 * self.heartbeat_interval if self.worker_ttl is None else self.worker_ttl

    @property
    def lease(self) -> float:
        """Length of a partition's lease in seconds."""
        return min(self.partition_lock_expiry, self.effective_worker_ttl)

    @property
    def beat_interval(self) -> float:
        """Seconds between two heartbeats."""
        return min(self.heartbeat_interval, self.lease / 3)

    @property
    def recovery_bound(self) -> float:
        """Longest time until work resumes after a worker died: lease + recovery scan + claim poll."""
        return self.lease + 1.0 + 2.0

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "CoordinatorConfig":
        """Build from a dict (Django settings, parsed JSON or TOML); unknown names are refused.

        Names may be in upper case. ``circuit_breaker`` may be a dict or None.
        """
        if not isinstance(values, Mapping):
            raise ConfigError("a mapping of options is needed, not %s" % type(values).__name__)
        return cls(**_known(cls, values))

    @classmethod
    def from_env(cls, prefix: str = "ELK_", environ: Optional[Mapping[str, str]] = None) -> "CoordinatorConfig":
        """Build from environment variables, ``ELK_TASK_WINDOW_SIZE=8``.

        Numbers, true / false, none and JSON are understood; breaker settings are ``ELK_CIRCUIT_BREAKER_OPEN_TIMEOUT=5``
        and so on, ``ELK_CIRCUIT_BREAKER=none`` switches it off. ``ELK_WORKER_ID=`` and ``ELK_ADMIN_TOKEN=`` (empty) are
        none. Variables that are no option are left alone (the prefix also carries ``ELK_REDIS_URL`` and
        ``ELK_NAMESPACE``).
        """
        source = os.environ if environ is None else environ
        text_options = {"metrics_addr", "admin_token", "worker_id", "strategy"}
        skipped = {"listeners", "gap_detector", "logger"}
        values: Dict[str, Any] = {}
        for field in attr.fields(cls):
            name = prefix + field.name.upper()
            if name not in source or field.name in skipped:
                continue
            if field.name not in text_options:
                values[field.name] = value_from_text(name, source[name])
            elif source[name] or field.default is not None:
                values[field.name] = source[name]
        breaker = {
            field.name: value_from_text(name, source[name])
            for field in attr.fields(CircuitBreakerConfig)
            for name in (prefix + "CIRCUIT_BREAKER_" + field.name.upper(),)
            if name in source
        }
        if breaker and "circuit_breaker" in values:
            name = prefix + "CIRCUIT_BREAKER"
            raise ConfigError("%s and %s_...: give the one or the others, not both" % (name, name))
        if breaker:
            values["circuit_breaker"] = breaker
        return cls.from_mapping(values)


class CoordinatorOptions(TypedDict, total=False):
    """The options as keyword arguments of a Coordinator: what an editor completes and mypy checks.

    Text is as good as a StrategyType, and a dict as a CircuitBreakerConfig.
    """

    strategy: Union[StrategyType, str]
    heartbeat_interval: float
    worker_ttl: Optional[float]
    partition_lock_expiry: float
    leader_lock_expiry: float
    leader_election_interval: float
    worker_partition_multiple: int
    allocation_interval: float
    max_pending_partitions: int
    task_window_size: int
    allow_preemption: bool
    max_attempts: int
    retry_backoff: Sequence[float]
    max_deliveries: int
    circuit_breaker: Union[CircuitBreakerConfig, Dict[str, Any], None]
    stop_timeout: float
    task_timeout: Optional[float]
    metrics_enabled: bool
    metrics_addr: str
    admin_token: Optional[str]
    worker_id: Optional[str]
    listeners: Any
    archive_keep: Optional[int]
    gap_detector: Optional[Any]
    affinity: bool
    logger: Optional[logging.Logger]


def value_from_text(name: str, text: str) -> Any:
    """Return what the text of an environment variable means: a number, true, false, none or JSON.

    :raises ConfigError: when it is none of these, naming the variable.
    """
    word = text.strip().lower()
    if word in ("none", "null", ""):
        return None
    if word in ("true", "yes", "on"):
        return True
    if word in ("false", "no", "off"):
        return False
    if re.match(r"[-\d.eE, ]+\Z", word) and "," in word:
        word = "[%s]" % word
    try:
        return json.loads(word)
    except ValueError as exc:
        raise ConfigError("%s: %r is neither a number, true, false, none nor JSON" % (name, text)) from exc


def check_window_size(value: Any) -> int:
    """Return *value* if it may become the size of a task window.

    :raises ConfigError: when the option ``task_window_size`` would refuse it.
    """
    _whole(1, LARGEST_WINDOW)(None, attr.fields(CoordinatorConfig).task_window_size, value)
    return int(value)


def new_nonce() -> str:
    """Return a text that no other worker instance ever had."""
    return uuid.uuid4().hex[:16]


def default_worker_id(nonce: str) -> str:
    """Return ``hostname-pid-nonce``."""
    host = re.sub(r"[^!-~]", "_", socket.gethostname())[:100] or "host"
    return "%s-%d-%s" % (host, os.getpid(), nonce[:6])


def check_options(values: Sequence[str]) -> None:
    """Refuse option names that do not exist, for keyword arguments of ``Coordinator``."""
    known = {field.name for field in attr.fields(CoordinatorConfig)}
    for name in values:
        if name not in known:
            raise ConfigError("%s: no such option; known are %s" % (name, ", ".join(sorted(known))))
