"""ELK_COORDINATOR and its checks: what is wrong is said before a worker runs, and nobody is asked over the network."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, List

import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.test.utils import override_settings

from elk_coordinator import Coordinator, CoordinatorConfig, RedisDataStore
from elk_coordinator.contrib.django import DjangoPlanner, DjangoProcessor, build, get_admin, open_store
from elk_coordinator.contrib.django.checks import TAG
from elk_coordinator.errors import ConfigError, StoreUnavailable
from elk_coordinator.store.memory_store import MemoryDataStore

TASKS = "tests.contrib.djsite.tasks."


def found() -> List[Any]:
    return [(message.id, message.msg) for message in run_checks(tags=[TAG])]


def memory_store() -> MemoryDataStore:
    return MemoryDataStore()


def broken_store() -> None:
    raise AssertionError("a check must not build the user's store")


def test_good_settings_are_not_complained_about() -> None:
    assert found() == []


@pytest.mark.parametrize(
    "keys, number, says",
    [
        ({"PROCESOR": TASKS + "Double"}, "elk.E002", "did you mean 'PROCESSOR'?"),
        ({"TASK_WINDOW_SIZE": 3}, "elk.E002", "no such key"),
        ({"NAMESPACE": None}, "elk.E003", "NAMESPACE is missing"),
        ({"NAMESPACE": "a b"}, "elk.E003", "letters, digits"),
        ({"REDIS_URL": None}, "elk.E004", "give REDIS_URL"),
        ({"STORE": TASKS + "broken"}, "elk.E005", "cannot be imported"),
        ({"REDIS_URL": None, "STORE": "redis://:secret@h/0"}, "elk.E005", "STORE: a URL is no dotted path; that of"),
        ({"REDIS_URL": "http://localhost"}, "elk.E004", "REDIS_URL: "),
        ({"PROCESSOR": TASKS + "Doubel"}, "elk.E005", "cannot be imported"),
        ({"PROCESSOR": "Double"}, "elk.E005", "'Double' cannot be imported"),
        ({"PROCESSOR": None}, "elk.E006", "PROCESSOR is missing"),
        ({"PROCESSOR": TASKS + "Idle"}, "elk.E006", "no method process"),
        ({"PROCESSOR": TASKS + "Picky"}, "elk.E006", "needs colour"),
        ({"PLANNER": TASKS + "Idle"}, "elk.E006", "no method partition_size"),
        ({"OPTIONS": {"task_windo_size": 3}}, "elk.E007", "did you mean 'task_window_size'?"),
        ({"OPTIONS": {"task_window_size": 0}}, "elk.E007", "task_window_size: must be a whole number from 1"),
        ({"OPTIONS": 7}, "elk.E007", "a mapping of options is needed"),
        ({"CLOSE_CONNECTIONS": "yes"}, "elk.E008", "must be True or False"),
    ],
)
def test_a_mistake_is_explained(
    keys: Dict[str, Any], number: str, says: str, configure: Callable[..., None]
) -> None:  # fmt: skip
    configure(**keys)
    messages = [text for this, text in found() if this == number]
    assert len(messages) == 1 and says in messages[0] and "ELK_COORDINATOR['default']" in messages[0], found()
    if number != "elk.E002" or "PROCESOR" in keys:
        with pytest.raises(ConfigError, match=r"ELK_COORDINATOR\['default'\]"):
            build()


def test_the_setting_itself_may_be_wrong_or_missing() -> None:
    with override_settings(ELK_COORDINATOR=[]):
        assert [number for number, _ in found()] == ["elk.E001"]
    with override_settings(ELK_COORDINATOR={"default": "orders"}):
        assert [number for number, _ in found()] == ["elk.E001"]
    with override_settings(ELK_COORDINATOR={}):
        assert [number for number, _ in found()] == ["elk.W001"]
        with pytest.raises(ConfigError, match="missing or empty"):
            build()


def test_two_jobs_in_one_namespace_are_warned_of() -> None:
    one = {"NAMESPACE": "n", "REDIS_URL": "redis://localhost/0", "PROCESSOR": TASKS + "Double"}
    other = dict(one, PROCESSOR="tests.contrib.djsite.tasks.Double.process")
    with override_settings(ELK_COORDINATOR={"one": one, "same": dict(one)}):
        assert found() == []
    with override_settings(ELK_COORDINATOR={"one": one, "other": other}):
        assert "elk.W002" in [number for number, _ in found()]


def test_a_store_of_the_users_is_not_built_by_the_checks(configure: Callable[..., None]) -> None:
    configure(REDIS_URL=None, STORE=broken_store)
    assert found() == []


def test_build_makes_what_the_settings_describe(configure: Callable[..., None]) -> None:
    configure(REDIS_URL=None, STORE=memory_store, OPTIONS={"STRATEGY": "simple", "task_window_size": 7})
    coordinator = build(task_window_size=2)
    assert isinstance(coordinator, Coordinator) and coordinator.namespace == "site"
    assert coordinator.config.task_window_size == 2
    assert coordinator.stop()


def test_an_alias_that_is_not_there_is_told_with_the_closest() -> None:
    with pytest.raises(ConfigError, match="has no 'defualt'; did you mean 'default'"):
        build("defualt")


def test_connections_are_cared_for_unless_the_settings_say_no(
    configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    built: List[Any] = []
    monkeypatch.setattr(
        "elk_coordinator.contrib.django.conf.Coordinator", lambda *args, **options: built.append((args, options))
    )
    with contextlib.closing(open_store()) as store:
        assert isinstance(store, RedisDataStore)
        build(store=store)
        build(store=store, close_connections=False, planner=False)
        configure(CLOSE_CONNECTIONS=False)
        build(store=store)
    (first, options), (second, bare), (third, _) = built
    assert isinstance(first[2], DjangoProcessor) and isinstance(first[3], DjangoPlanner)
    assert len(options["listeners"]) == 1
    assert not isinstance(second[2], DjangoProcessor) and second[3] is None and "listeners" not in bare
    assert not isinstance(third[2], DjangoProcessor)
    assert isinstance(options["config"], CoordinatorConfig)


def test_an_admin_without_a_store_is_a_typed_error_and_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elk_coordinator.contrib.django.conf.ANSWER_WITHIN", 0.2)
    with pytest.raises(StoreUnavailable):
        get_admin()


@pytest.mark.parametrize("alias", [1, ""])
def test_an_alias_that_is_no_text_is_explained(alias: Any) -> None:
    entry = settings.ELK_COORDINATOR["default"]
    with override_settings(ELK_COORDINATOR={alias: entry, 2: dict(entry, PROCESSOR=TASKS + "Other")}):
        assert [(number, "an alias must be a text" in text) for number, text in found()] == [("elk.E001", True)]


def test_a_store_that_is_an_object_is_not_closed_by_those_who_ask_it(configure: Callable[..., None]) -> None:
    store = MemoryDataStore()
    configure(REDIS_URL=None, STORE=store)
    for _ in range(2):
        opened = open_store()
        opened.namespaced("any").get("x")
        opened.close()
    store.namespaced("any").get("x")
    store.close()
