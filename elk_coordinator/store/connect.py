"""Redis clients fit for leases: our own timeouts, no hidden retries, made from a URL or cloned from a user's client.

redis-py from 6.0 on silently sends a command again whose reply was lost, so every client here is built with
``Retry(NoBackoff(), 0)``: retries are ours, with the same request, within one deadline. A user's client is only read.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, List, Optional, Tuple
from urllib.parse import unquote, urlsplit

import redis
import redis.backoff
import redis.retry
from redis import cluster as _typed_cluster
from redis import sentinel as _typed_sentinel

from elk_coordinator.errors import ConfigError

# Parts of redis-py carry no types.
_cluster_module: Any = _typed_cluster
_sentinel_module: Any = _typed_sentinel

#: ``(seconds per call, connection name) -> client``; each call makes connections of its own.
ClientFactory = Callable[[float, str], Any]


def _settings(seconds: float, name: str, unix: bool = False) -> Dict[str, Any]:
    # One call may need a connect and a command; handshake replies are quick or the server is gone. With two thirds of
    # the deadline at most for the two together, a first failure leaves time for another try.
    part = max(0.02, seconds / 3)
    settings: Dict[str, Any] = {
        "socket_timeout": part,
        "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0),
        "retry_on_timeout": False,
        "retry_on_error": [],
        "health_check_interval": 30,
        "client_name": re.sub(r"[^!-~]", "_", name) or None,
        "decode_responses": False,
    }
    if not unix:
        settings["socket_connect_timeout"] = part
        settings["socket_keepalive"] = True
    return settings


def _hosts(netloc: str, what: str, default_port: int) -> Tuple[str, List[Tuple[str, int]]]:
    credentials, _, hosts = netloc.rpartition("@")
    out = []
    for item in hosts.split(","):
        host, _, port = item.rpartition(":") if re.search(r":\d+\Z", item) else (item, "", str(default_port))
        if not host:
            raise ConfigError("%s: %r names no host" % (what, item))
        out.append((host.strip("[]"), int(port)))
    return credentials, out


def _credentials(text: str) -> Dict[str, Any]:
    user, _, password = text.partition(":")
    out = {}
    if user:
        out["username"] = unquote(user)
    if password:
        out["password"] = unquote(password)
    return out


def mask(url: str) -> str:
    """Return *url* without its passwords, for logs and errors: also one with an "@" in it, or given as a parameter.

    For one whole URL, in which even a space belongs to the password; ``runtime.logs.mask`` finds URLs in a text.
    """
    return re.sub(r"([?&][^=&]*password=)[^&]*", r"\1***", re.sub(r"(//[^/@:]*:).*@", r"\1***@", url))


def from_url(url: str) -> ClientFactory:
    """Return a factory of clients for *url*.

    :raises ConfigError: when the URL has another form than those documented at ``RedisDataStore.from_url``.
    """
    if not isinstance(url, str):
        raise ConfigError("Redis URL must be a text, not %r" % (url,))
    scheme = url.partition("://")[0]
    try:
        if scheme in ("redis", "rediss", "unix"):
            # Parsed here once so that a wrong URL is an error now, not at the first command.
            redis.ConnectionPool.from_url(url)
            if scheme != "unix" and not urlsplit(url).hostname:
                raise ValueError("it names no host")
            return lambda seconds, name: redis.Redis.from_url(url, **_settings(seconds, name, scheme == "unix"))
        if scheme == "redis+sentinel":
            return _sentinel(url)
        if scheme == "redis+cluster":
            return _cluster(url)
    except ConfigError:
        raise
    except (ValueError, TypeError) as exc:
        if re.search(r"//[^@]*[/?#].*@", url):
            # Cut there, a part of the password would be in the text of the error, as the port.
            hint = "write '/', '?', '#' and '@' of a password as %2F, %3F, %23 and %40"
            raise ConfigError("Redis URL %r is not usable: %s" % (mask(url), hint)) from None
        raise ConfigError("Redis URL %r is not usable: %s" % (mask(url), exc)) from exc
    raise ConfigError(
        "Redis URL %r: the scheme must be redis, rediss, unix, redis+sentinel or redis+cluster "
        "(for example redis://localhost:6379/0)" % mask(url)
    )


def _sentinel(url: str) -> ClientFactory:
    parts = urlsplit(url)
    credentials, hosts = _hosts(parts.netloc, mask(url), 26379)
    path = [unquote(item) for item in parts.path.split("/") if item]
    if not path or len(path) > 2:
        raise ConfigError("%r: must be redis+sentinel://host:port,host:port/service/db" % mask(url))
    db = int(path[1]) if len(path) == 2 else 0

    def make(seconds: float, name: str) -> Any:
        settings = _settings(seconds, name)
        # Sentinels are asked within the same share of the deadline; credentials are the master's.
        asking = {key: settings[key] for key in ("socket_timeout", "socket_connect_timeout", "retry")}
        sentinel = _sentinel_module.Sentinel(
            hosts, sentinel_kwargs=asking, db=db, **_credentials(credentials), **settings
        )
        return sentinel.master_for(path[0])

    return make


def _cluster(url: str) -> ClientFactory:
    parts = urlsplit(url)
    credentials, hosts = _hosts(parts.netloc, mask(url), 6379)
    if parts.path.strip("/") not in ("", "0"):
        raise ConfigError("%r: a cluster has no databases; leave the path out" % mask(url))
    return _cluster_factory(hosts, _credentials(credentials))


def _cluster_factory(hosts: List[Tuple[str, int]], own: Dict[str, Any]) -> ClientFactory:
    def make(seconds: float, name: str) -> Any:
        settings = dict(own, **_settings(seconds, name))
        for unknown in ("retry_on_timeout", "retry_on_error"):
            settings.pop(unknown)
        # Redirections are followed by the driver; failovers are retried by us, with the same request, inside the
        # deadline. Before 6.0 the driver counts those retries apart; later versions warn of that option.
        if int(redis.__version__.partition(".")[0]) < 6:
            settings["cluster_error_retry_attempts"] = 0
        nodes = [_cluster_module.ClusterNode(host, port) for host, port in hosts]
        return _cluster_module.RedisCluster(startup_nodes=nodes, **settings)

    return make


def from_client(client: Any) -> ClientFactory:
    """Return a factory that clones *client* with our settings; the client itself is only looked at.

    :raises ConfigError: when connections cannot be derived from it.
    """
    if isinstance(client, _cluster_module.RedisCluster):
        known = getattr(client.nodes_manager, "connection_kwargs", {})
        own = {
            key: value for key, value in known.items()
            if key in ("username", "password", "credential_provider", "connection_class") or key.startswith("ssl")
        }  # fmt: skip
        return _cluster_factory([(node.host, node.port) for node in client.get_nodes()], own)
    pool = getattr(client, "connection_pool", None)
    if pool is None or not hasattr(pool, "connection_kwargs"):
        raise ConfigError(
            "cannot derive connections from %r: pass a redis.Redis client (sync, not asyncio), or use "
            "RedisDataStore.from_url" % (type(client).__name__,)
        )

    def make(seconds: float, name: str) -> Any:
        unix = issubclass(pool.connection_class, redis.connection.UnixDomainSocketConnection)
        kwargs = dict(pool.connection_kwargs)
        kwargs.update(_settings(seconds, name, unix))
        if isinstance(pool, _sentinel_module.SentinelConnectionPool):
            for own in ("connection_pool", "service_name", "sentinel_manager"):
                kwargs.pop(own, None)
            kwargs["connection_class"] = pool.connection_class
            cloned: Any = _sentinel_module.SentinelConnectionPool(pool.service_name, pool.sentinel_manager, **kwargs)
        else:
            cloned = redis.ConnectionPool(connection_class=pool.connection_class, **kwargs)
        return redis.Redis(connection_pool=cloned)

    return make


def describe(client: Any) -> Optional[str]:
    """Return a short text about where *client* connects to, without secrets."""
    pool = getattr(client, "connection_pool", None)
    kwargs = getattr(pool, "connection_kwargs", {})
    if "path" in kwargs:
        return "unix socket %s" % kwargs["path"]
    if "host" in kwargs:
        return "%s:%s" % (kwargs["host"], kwargs.get("port", 6379))
    return None
