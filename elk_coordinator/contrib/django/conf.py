"""The setting ELK_COORDINATOR, and what is built from it. Nothing here starts anything.

::

    ELK_COORDINATOR = {
        "default": {
            "NAMESPACE": "orders",
            "REDIS_URL": "redis://localhost:6379/0",
            "PROCESSOR": "shop.tasks.Recalculate",
            "PLANNER": "shop.tasks.Orders",
            "OPTIONS": {"task_window_size": 5},
        },
    }
"""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, Optional

import attr
from django.conf import settings
from django.utils.module_loading import import_string

from elk_coordinator import AdminClient, Coordinator, CoordinatorConfig, RedisDataStore
from elk_coordinator.config import CoordinatorOptions, check_namespace
from elk_coordinator.contrib.django.wrapping import DjangoPlanner, DjangoProcessor, Leftovers
from elk_coordinator.errors import ConfigError
from elk_coordinator.store.base import DataStore

if TYPE_CHECKING:
    from typing_extensions import Unpack

SETTING = "ELK_COORDINATOR"
KEYS = ("NAMESPACE", "REDIS_URL", "STORE", "PROCESSOR", "PLANNER", "OPTIONS", "CLOSE_CONNECTIONS")
#: Seconds to wait for the store's answer: of a worker that starts, of an operator's command or page.
START_WITHIN = 3.5
ANSWER_WITHIN = 3.0


def close_to(name: Any, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'X'?"``, or the known names when nothing is close."""
    names = sorted(known)
    lower = {one.lower(): one for one in names}
    found = difflib.get_close_matches(str(name).lower(), list(lower), 1)
    return "; did you mean %r?" % lower[found[0]] if found else "; known are %s" % ", ".join(names)


def all_settings() -> Mapping[str, Any]:
    """Return the setting as it stands; an empty one when there is none.

    :raises ConfigError: it is no dict, or an alias is no text.
    """
    given = getattr(settings, SETTING, {})
    if not isinstance(given, Mapping):
        raise ConfigError("%s: must be a dict of {alias: {...}}, not %s" % (SETTING, type(given).__name__))
    for alias in given:
        if not isinstance(alias, str) or not alias:
            raise ConfigError("%s: an alias must be a text that is not empty, not %r" % (SETTING, alias))
    return given


def aliases() -> List[str]:
    """Return the names of the coordinators that the settings describe, in their order."""
    return [str(alias) for alias in all_settings()]


@attr.s(auto_attribs=True, frozen=True)
class Entry:
    """One coordinator of the setting, its keys known; what they name is not yet looked up."""

    alias: str
    values: Mapping[str, Any]

    @property
    def where(self) -> str:
        """How messages name it."""
        return "%s[%r]" % (SETTING, self.alias)

    def namespace(self) -> str:
        """Return the namespace. :raises ConfigError: missing or malformed."""
        given = self.values.get("NAMESPACE")
        if given is None:
            raise ConfigError(
                "%s: NAMESPACE is missing; workers of one namespace share one plan, so name it for the job" % self.where
            )
        try:
            return check_namespace(given)
        except ConfigError as exc:
            raise ConfigError("%s: NAMESPACE: %s" % (self.where, exc)) from exc

    def config(self) -> CoordinatorConfig:
        """Return the options, checked. :raises ConfigError: naming the option, the value and the rule."""
        given = self.values.get("OPTIONS", {})
        try:
            return CoordinatorConfig.from_mapping(given)
        except ConfigError as exc:
            fields = {field.name for field in attr.fields(CoordinatorConfig)}
            for name in given if isinstance(given, Mapping) else ():
                if str(name).lower() not in fields:
                    message = "%s: OPTIONS: %s: no such option%s" % (self.where, name, close_to(name, fields))
                    raise ConfigError(message) from exc
            raise ConfigError("%s: OPTIONS: %s" % (self.where, exc)) from exc

    def store(self, timeout: float) -> DataStore:
        """Return a new store; nothing is sent yet. :raises ConfigError: none, two, or a bad one is named."""
        url, store = self.values.get("REDIS_URL"), self.values.get("STORE")
        if (url is None) == (store is None):
            raise ConfigError(
                "%s: give REDIS_URL ('redis://host:6379/0'), or STORE (a function that returns a DataStore)%s"
                % (self.where, "" if url is None else ", not both")
            )
        if url is not None:
            try:
                return RedisDataStore.from_url(url, timeout=timeout)
            except ConfigError as exc:
                raise ConfigError("%s: REDIS_URL: %s" % (self.where, exc)) from exc
        found = self.look_up("STORE")
        if isinstance(found, DataStore):
            # Theirs to close; whoever asked us for a store closes it.
            return found.with_deadline(timeout)
        made = found() if callable(found) else found
        if not isinstance(made, DataStore):
            raise ConfigError("%s: STORE: %r made %r, which is no DataStore" % (self.where, store, made))
        return made

    def look_up(self, key: str) -> Any:
        """Return what a key names: the object behind a dotted path, or the object itself; None when not given.

        :raises ConfigError: nothing can be imported from that path.
        """
        given = self.values.get(key)
        if not isinstance(given, str):
            return given
        if "://" in given:
            # Not shown: it may hold a password.
            rule = "a URL is no dotted path; that of the store belongs to REDIS_URL"
            raise ConfigError("%s: %s: %s" % (self.where, key, rule))
        try:
            return import_string(given)
        except ImportError as exc:
            raise ConfigError("%s: %s: %r cannot be imported: %s" % (self.where, key, given, exc)) from exc

    def make(self, key: str) -> Any:
        """Return the processor or planner; a class is called without arguments.

        :raises ConfigError: no such thing, it lacks a method, or the class needs arguments.
        """
        found = self.look_up(key)
        self.check_shape(key, found)
        return found() if inspect.isclass(found) else found

    def check_shape(self, key: str, found: Any) -> None:
        """Refuse what can be no processor or planner, without building it. :raises ConfigError: what it lacks."""
        shown = "%s: %s: %r" % (self.where, key, self.values.get(key))
        if found is None:
            if key == "PROCESSOR":
                raise ConfigError("%s: PROCESSOR is missing; name your class, 'app.tasks.Recalculate'" % self.where)
            return
        if inspect.isclass(found):
            needed = _arguments(found)
            if needed:
                raise ConfigError(
                    "%s needs %s, and a class is called without arguments; name an instance or a function instead"
                    % (shown, ", ".join(needed))
                )
        if key == "PROCESSOR":
            plain = callable(found) and not inspect.isclass(found)
            if not plain and not callable(getattr(found, "process", None)):
                raise ConfigError("%s has no method process(ctx, min_id, max_id, options)" % shown)
        elif not callable(getattr(found, "plan", None)):
            for name in ("partition_size", "get_next_max_id"):
                if not callable(getattr(found, name, None)):
                    raise ConfigError("%s has no method %s (see PartitionPlanner)" % (shown, name))


def _arguments(cls: Any) -> List[str]:
    try:
        parameters = inspect.signature(cls).parameters.items()
    except (TypeError, ValueError):  # a class without a readable signature: call it and see
        return []
    return [
        name
        for name, each in parameters
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]


def entry(alias: str = "default") -> Entry:
    """Return one coordinator of the setting. :raises ConfigError: no such one, or it has unknown keys."""
    given = all_settings()
    if alias not in given:
        if not given:
            raise ConfigError("%s: the setting is missing or empty; see docs/django.rst" % SETTING)
        raise ConfigError("%s has no %r%s" % (SETTING, alias, close_to(alias, given)))
    values = given[alias]
    if not isinstance(values, Mapping):
        raise ConfigError("%s[%r]: must be a dict, not %s" % (SETTING, alias, type(values).__name__))
    for key in values:
        if key not in KEYS:
            raise ConfigError("%s[%r]: %s: no such key%s" % (SETTING, alias, key, close_to(key, KEYS)))
    return Entry(alias, values)


def open_store(alias: str = "default", timeout: float = START_WITHIN) -> DataStore:
    """Return a new store of that coordinator; nothing is sent before its first use. The caller closes it.

    :param timeout: seconds per call, where REDIS_URL names the store.
    """
    return entry(alias).store(timeout)


def build(
    alias: str = "default",
    *,
    store: Optional[DataStore] = None,
    planner: bool = True,
    close_connections: Optional[bool] = None,
    **options: Unpack[CoordinatorOptions],
) -> Coordinator:
    """Return a new coordinator as the settings describe it; nothing is sent or started before ``start()``.

    :param store: used instead of the one in the settings. A coordinator never closes the store it was given.
    :param planner: False makes a worker that never leads.
    :param close_connections: whether stale database connections are closed around each partition and each question to
        the planner, see :class:`DjangoProcessor`. None: the key CLOSE_CONNECTIONS, True by default.
    :param options: take the place of those in OPTIONS.
    :raises ConfigError: the settings are wrong; the message names the key.
    """
    found = entry(alias)
    namespace, config = found.namespace(), found.config()
    processor = found.make("PROCESSOR")
    plans = found.make("PLANNER") if planner else None
    closes = found.values.get("CLOSE_CONNECTIONS", True) if close_connections is None else close_connections
    if not isinstance(closes, bool):
        raise ConfigError("%s: CLOSE_CONNECTIONS: must be True or False, not %r" % (found.where, closes))
    if closes:
        leftovers = Leftovers()
        processor = DjangoProcessor(processor, leftovers)
        plans = None if plans is None else DjangoPlanner(plans, leftovers)
        options["listeners"] = (*_several(options.get("listeners", config.listeners)), leftovers)
    given = found.store(START_WITHIN) if store is None else store
    return Coordinator(namespace, given, processor, plans, config=config, **options)


#: The same under the name that Django users look for first.
get_coordinator = build


def _several(value: Any) -> Iterable[Any]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


class Admin(AdminClient):
    """An :class:`~elk_coordinator.AdminClient` that closes its store: ``with get_admin() as admin``."""

    def close(self) -> None:
        """Close the connections to the store."""
        self.strategy.store.close()
        self._given.close()

    def __init__(self, namespace: str, store: DataStore, by: Optional[str] = None) -> None:
        self._given = store
        super().__init__(namespace, store, by=by)

    def __enter__(self) -> "Admin":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def get_admin(alias: str = "default", by: Optional[str] = None) -> Admin:
    """Return the operator's service of that coordinator; asks the store once.

    :param by: who asks, shown with each command; by default ``user@host``.
    :raises ConfigError: the settings are wrong. :raises StateError: no worker has used the namespace yet.
    :raises StoreError: the store cannot be reached, or refuses us.
    """
    found = entry(alias)
    namespace, store = found.namespace(), found.store(ANSWER_WITHIN)
    try:
        return Admin(namespace, store, by)
    except BaseException:
        store.close()
        raise


def describe(alias: str) -> Dict[str, Any]:
    """Return ``alias`` and ``namespace`` (None when the settings are wrong), for lists."""
    try:
        return {"alias": alias, "namespace": entry(alias).namespace()}
    except ConfigError:
        return {"alias": alias, "namespace": None}
