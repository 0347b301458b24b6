"""One coordinator per process: built once, whoever asks; anew in a child; never again after the stop."""

from __future__ import annotations

import os
import threading
from typing import Any, Callable, Iterator, List

import pytest

from elk_coordinator import ConfigError, Coordinator, StateError
from elk_coordinator.contrib.per_process import PerProcess
from elk_coordinator.store.memory_store import MemoryDataStore


@pytest.fixture
def built() -> Iterator[List[Coordinator]]:
    made: List[Coordinator] = []
    yield made
    for coordinator in made:
        coordinator.stop()


@pytest.fixture
def build(built: List[Coordinator], namespace: str) -> Callable[[], Coordinator]:
    store = MemoryDataStore()

    def make() -> Coordinator:
        built.append(Coordinator(namespace, store, lambda *a: None, strategy="simple", metrics_enabled=False))
        return built[-1]

    return make


def test_nothing_happens_before_it_is_asked_for(build: Any, built: List[Coordinator]) -> None:
    elk = PerProcess(build)
    assert elk.current is None and built == []
    assert elk.stop() is True and built == []


def test_many_threads_get_one_running_coordinator(build: Any, built: List[Coordinator]) -> None:
    elk = PerProcess(build)
    barrier, got = threading.Barrier(8), []  # type: Any, List[Any]

    def ask() -> None:
        barrier.wait(10)
        got.append(elk())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(built) == 1 and got == built * 8 and elk.current is built[0]
    assert built[0].health().state == "running"


def test_after_the_stop_it_does_not_start_again_in_this_process(build: Any, built: List[Coordinator]) -> None:
    elk = PerProcess(build)
    elk()
    assert elk.stop() is True and elk.stop() is True
    with pytest.raises(StateError, match="on its way out"):
        elk()
    assert len(built) == 1


def test_a_failed_start_leaves_nothing_and_the_next_call_tries_again(build: Any, built: List[Coordinator]) -> None:
    errors: List[Exception] = [ConfigError("task_window_size: no")]

    def sometimes() -> Coordinator:
        if errors:
            raise errors.pop()
        return build()

    elk = PerProcess(sometimes)
    with pytest.raises(ConfigError):
        elk()
    assert elk.current is None
    assert elk() is built[0]


def test_another_process_with_the_same_memory_gets_its_own_even_if_the_lock_was_held(
    build: Any, built: List[Coordinator], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As under uWSGI: no fork hook of Python's is called. The parent's lock stays locked in the child for ever.
    elk = PerProcess(build)
    parents = elk()
    pid = os.getpid()
    with elk._slot().lock:
        monkeypatch.setattr(os, "getpid", lambda: pid + 1)
        assert elk.current is None
        childs = elk()
        assert childs is not parents and childs.health().state == "running"
        assert childs.stop()
        built.remove(childs)
    monkeypatch.undo()
    assert elk() is parents
