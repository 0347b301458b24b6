"""Flask (2.0 and newer): settings from ``app.config``, work inside the application context, ``flask elk worker``.

::

    elk = Elk()

    @elk.processor
    def reindex(ctx, min_id, max_id, options):
        db.session.execute(...)                  # inside app.app_context(): teardown_appcontext ends the session

    @elk.planner
    class Orders: ...

    def create_app():
        app = Flask(__name__)
        app.config.from_mapping(ELK_NAMESPACE="orders", ELK_REDIS_URL="redis://localhost:6379/0")
        elk.init_app(app)
        return app

Nothing is connected and no thread is started by import, ``init_app()`` or ``mount()``: the factory is also called by
the ``flask`` command, by tests and by the parent of the reloader. Work begins with ``flask elk worker``, or by
``elk.start()``.
"""

from __future__ import annotations

import difflib
import os
import threading
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Iterator, Mapping, Optional, Tuple, TypeVar, Union

import attr
from flask import Flask, current_app

from elk_coordinator import AdminClient, CircuitBreakerConfig, Coordinator, CoordinatorConfig, RedisDataStore
from elk_coordinator.config import CoordinatorOptions, check_namespace, value_from_text
from elk_coordinator.contrib._flask_commands import elk_commands
from elk_coordinator.contrib._worker import START_WITHIN
from elk_coordinator.errors import ConfigError, StateError
from elk_coordinator.observability.app import Environ, WSGIApp, error_response, status_and_headers
from elk_coordinator.protocols import AnyPlanner, AnyProcessor, ProcessContext, Processor
from elk_coordinator.store.base import DataStore
from elk_coordinator.worker.runner import processor_function

if TYPE_CHECKING:
    from typing_extensions import Unpack

PREFIX = "ELK_"
EXTENSION = "elk"
DEFAULT_URL = "redis://localhost:6379/0"
#: Options whose text is taken as it is; the text of others is read as in environment variables.
_TEXTS = {"metrics_addr", "admin_token", "worker_id", "strategy"}
_BREAKER = "circuit_breaker_"

#: What the decorators take and give back: the thing itself, or a class to be made without arguments.
Work = TypeVar("Work", bound=Union[AnyProcessor, Callable[[], Processor]])
Plan = TypeVar("Plan", bound=Union[AnyPlanner, Callable[[], AnyPlanner]])


class ElkOptions(CoordinatorOptions, total=False):
    """What :class:`Elk` takes beside the options of a coordinator."""

    namespace: str
    redis_url: str


@attr.s(auto_attribs=True, frozen=True)
class Settings:
    """What the ``ELK_...`` keys of an ``app.config`` say."""

    namespace: Optional[str]
    redis_url: str
    config: CoordinatorConfig

    @classmethod
    def read(cls, config: Mapping[str, Any], **options: Any) -> "Settings":
        """Read ``ELK_NAMESPACE``, ``ELK_REDIS_URL`` and ``ELK_<OPTION>``; *options* go before them.

        Text is read as in environment variables (``"8"``, ``"true"``, ``"none"``, JSON), anything else as it is.
        ``ELK_CIRCUIT_BREAKER`` is a dict or None, and ``ELK_CIRCUIT_BREAKER_OPEN_TIMEOUT`` and so on name parts of it.

        :raises ConfigError: for a value that is refused, or a key that is nearly the name of an option.
        """
        names = {field.name for field in attr.fields(CoordinatorConfig)}
        parts = {_BREAKER + field.name for field in attr.fields(CircuitBreakerConfig)}
        known = names | parts | {"namespace", "redis_url"}
        values: Dict[str, Any] = {}
        breaker: Dict[str, Any] = {}
        for key, value in config.items():
            name = key[len(PREFIX) :].lower()
            if not key.startswith(PREFIX) or name in ("namespace", "redis_url"):
                continue
            if name not in known:
                # Others use these letters too (for their logs); a slip of the pen must not be a setting without effect.
                for near in difflib.get_close_matches(name, sorted(known), 1, 0.8):
                    raise ConfigError("%s: no such option; did you mean %s%s?" % (key, PREFIX, near.upper()))
                continue
            if isinstance(value, str):
                if name in _TEXTS:
                    value = value or None
                else:
                    value = value_from_text(key, value)
            if name in names:
                values[name] = value
            else:
                breaker[name[len(_BREAKER) :]] = value
        if breaker and "circuit_breaker" in values:
            raise ConfigError("%sCIRCUIT_BREAKER and its parts: give the one or the others, not both" % PREFIX)
        if breaker:
            values["circuit_breaker"] = breaker
        namespace = options.pop("namespace", config.get(PREFIX + "NAMESPACE"))
        redis_url = options.pop("redis_url", config.get(PREFIX + "REDIS_URL")) or DEFAULT_URL
        # Refused here, in the factory; nothing connects before its first use.
        RedisDataStore.from_url(redis_url).close()
        values.update(options)
        return cls(
            namespace=None if namespace is None else check_namespace(namespace),
            redis_url=redis_url,
            config=CoordinatorConfig.from_mapping(values),
        )


class AppProcessor:
    """A processor each of whose partitions runs inside an application context of its own."""

    def __init__(self, app: Flask, processor: AnyProcessor) -> None:
        self._app = app
        self._process = processor_function(processor)

    def process(self, ctx: ProcessContext, min_id: int, max_id: int, options: Dict[str, Any]) -> Optional[int]:
        """Process one partition; what ``teardown_appcontext`` registered runs behind it, in the same thread."""
        with self._app.app_context():
            return self._process(ctx, min_id, max_id, options)


class AppPlanner:
    """A planner each of whose answers is given inside an application context of its own.

    It has exactly the optional methods that the wrapped planner has.
    """

    def __init__(self, app: Flask, planner: AnyPlanner) -> None:
        self._app = app
        self._planner = planner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._planner, name)
        if not callable(found):
            return found

        def inside(*args: Any) -> Any:
            with self._app.app_context():
                return found(*args)

        def step_by_step(*args: Any) -> Iterator[Any]:
            # A generator of the user's does its work in the steps: the context must last as long as they do.
            with self._app.app_context():
                yield from found(*args)

        return step_by_step if name == "plan" else inside


class _State:
    """What belongs to one application in one process: in ``app.extensions``, so that an Elk holds no application."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.coordinator: Optional[Coordinator] = None
        self.own_store: Optional[RedisDataStore] = None
        #: The application over a coordinator, for mount().
        self.shown: Optional[Tuple[Coordinator, WSGIApp]] = None


class Elk:
    """The Flask extension. One per application; may serve several applications (tests make many).

    :param app: as by :meth:`init_app`; or call that later.
    :param processor: an object with ``process``, or a function; or use the decorator :meth:`processor`.
    :param planner: or use the decorator :meth:`planner`; without one, the worker never leads.
    :param store: in the place of ``ELK_REDIS_URL``; stays yours to close.
    :param options: of :class:`~elk_coordinator.CoordinatorConfig`; they go before ``app.config``.
    :raises ConfigError: for a bad setting.

    Methods that take *app* mean the current application when it is left out. Safe from any thread.
    """

    def __init__(
        self,
        app: Optional[Flask] = None,
        processor: Optional[AnyProcessor] = None,
        planner: Optional[AnyPlanner] = None,
        *,
        store: Optional[DataStore] = None,
        **options: Unpack[ElkOptions],
    ) -> None:
        self._processor = processor
        self._planner = planner
        self._store = store
        self._options = options
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Check the settings and add ``flask elk ...``; connects to nothing and starts nothing.

        :raises ConfigError: for a bad setting. :raises StateError: the application has an Elk already.
        """
        if EXTENSION in app.extensions:
            raise StateError("%s: this application has an Elk already" % app.name)
        self.settings(app)
        app.extensions[EXTENSION] = self
        #: By pid: after a fork nothing of the parent's is touched, whose lock one of its threads may have held.
        states: Dict[int, _State] = {}
        app.extensions[EXTENSION + ".states"] = states
        app.cli.add_command(elk_commands)

    # ---------------------------------------------------------------- the work

    def processor(self, work: Work) -> Work:
        """Use the decorated function, or an instance of the decorated class (made without arguments), as processor."""
        if self._processor is not None:
            raise StateError("this Elk has a processor already")
        self._processor = work() if isinstance(work, type) else work  # type: ignore[assignment]
        return work

    def planner(self, plan: Plan) -> Plan:
        """Use an instance of the decorated class (made without arguments), or the given object, as planner."""
        if self._planner is not None:
            raise StateError("this Elk has a planner already")
        self._planner = plan() if isinstance(plan, type) else plan  # type: ignore[assignment]
        return plan

    def work(self, app: Optional[Flask] = None) -> Tuple[Processor, Optional[AnyPlanner]]:
        """Return processor and planner as a worker runs them, inside application contexts: for ``run_inline(*...)``.

        :raises ConfigError: there is no processor.
        """
        app = _application(app)
        if self._processor is None:
            raise ConfigError("processor: none; decorate one with @elk.processor, or give it to Elk(...)")
        planner: Any = None if self._planner is None else AppPlanner(app, self._planner)
        return AppProcessor(app, self._processor), planner

    # ---------------------------------------------------------------- the coordinator of this process

    def settings(self, app: Optional[Flask] = None) -> Settings:
        """Return what ``app.config`` says now. :raises ConfigError: for a bad setting."""
        return Settings.read(_application(app).config, **self._options)

    def coordinator(self, app: Optional[Flask] = None) -> Coordinator:
        """Return this process's coordinator of the application; built when there is none, never started here.

        After a fork, and after a stop, it is a new one.

        :raises ConfigError: for a bad or missing setting.
        """
        app = _application(app)
        state = _state(app)
        with state.lock:
            if state.coordinator is None or state.coordinator.health().state == "stopped":
                state.coordinator = self._build(app, state)
            return state.coordinator

    def _build(self, app: Flask, state: _State) -> Coordinator:
        settings = self.settings(app)
        processor, planner = self.work(app)
        namespace = needed_namespace(settings)
        store: Optional[DataStore] = self._store
        if store is None:
            if state.own_store is None:
                state.own_store = RedisDataStore.from_url(settings.redis_url, timeout=START_WITHIN)
            store = state.own_store
        return Coordinator(namespace, store, processor, planner, config=settings.config)

    def start(self, app: Optional[Flask] = None, require_store: bool = True) -> Coordinator:
        """Start this process's coordinator, once however often it is called; return it.

        For work inside a web process: call it in the worker process (gunicorn's ``post_fork``), never in a factory.

        :raises StoreUnavailable: see :meth:`Coordinator.start <elk_coordinator.Coordinator.start>`.
        """
        return self.coordinator(app).start(require_store)

    def stop(self, app: Optional[Flask] = None, timeout: Optional[float] = None) -> bool:
        """Drain and end this process's coordinator, and close its connections; True when all ended in time."""
        state = _state(_application(app))
        with state.lock:
            clean = state.coordinator is None or state.coordinator.stop(timeout)
            if state.own_store is not None:
                state.own_store.close()
            state.coordinator = state.own_store = state.shown = None
        return clean

    def admin(self, app: Optional[Flask] = None) -> AdminClient:
        """Return the operator's service of the application's namespace: ``elk.admin().retry_failed()`` in a view.

        :raises StateError: nobody has used the namespace yet.
        """
        coordinator = self.coordinator(app)
        return AdminClient(coordinator.namespace, coordinator.strategy.store)

    def mount(
        self, app: Optional[Flask] = None, prefix: str = "/elk", allow: Optional[Callable[[Environ], bool]] = None
    ) -> None:
        """Serve metrics, health and the HTTP API of the coordinator below *prefix* of the application.

        A process that does not work itself serves the API of the namespace all the same; its ``/ready`` says 503.

        :param allow: is asked with the WSGI environ before every answer; False answers 403. Without it, whoever can
            reach the application can read there; writing needs ``ELK_ADMIN_TOKEN`` in any case.
        :raises ConfigError: *prefix* does not begin with "/" or is the whole application.
        """
        app = _application(app)
        prefix = prefix.rstrip("/")
        if not prefix.startswith("/"):
            raise ConfigError("prefix: must begin with '/' and name a part of the application, not %r" % prefix)
        inner = app.wsgi_app
        target = app

        def dispatch(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "")
            if path != prefix and not path.startswith(prefix + "/"):
                return inner(environ, start_response)
            if allow is not None and not allow(environ):
                response = error_response(403, "not allowed")
                start_response(*status_and_headers(response))
                return [response.body]
            below = dict(environ, SCRIPT_NAME=environ.get("SCRIPT_NAME", "") + prefix, PATH_INFO=path[len(prefix) :])
            return self._http_app(target)(below, start_response)

        app.wsgi_app = dispatch  # type: ignore[method-assign]

    def _http_app(self, app: Flask) -> WSGIApp:
        coordinator, state = self.coordinator(app), _state(app)
        shown = state.shown
        if shown is None or shown[0] is not coordinator:
            shown = state.shown = (coordinator, coordinator.wsgi_app())
        return shown[1]


def needed_namespace(settings: Settings) -> str:
    """Return the namespace. :raises ConfigError: there is none."""
    if settings.namespace is None:
        raise ConfigError("%sNAMESPACE: missing in app.config; workers of one namespace share the work" % PREFIX)
    return settings.namespace


def _application(app: Optional[Flask]) -> Flask:
    if app is not None:
        return app
    if not current_app:
        raise StateError("which application? Give app, or call inside app.app_context()")
    found: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    return found


def _state(app: Flask) -> _State:
    try:
        states: Dict[int, _State] = app.extensions[EXTENSION + ".states"]
    except KeyError:
        raise StateError("%s has no Elk; call elk.init_app(app) first" % app.name) from None
    return states.setdefault(os.getpid(), _State())  # atomic: two threads get the same one
