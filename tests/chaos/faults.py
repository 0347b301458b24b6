"""Every kind of fault of a chaos run: one function each, which makes it, lets it last, and ends it.

A function returns the names of the processes it struck; [] = all of them. It runs in a thread of its own.
"""

from __future__ import annotations

import contextlib
import signal
from typing import Any, Callable, Dict, List, Optional

from elk_coordinator.errors import ElkError
from tests.chaos.crew import Slot
from tests.chaos.fence import CELL
from tests.chaos.journal import now
from tests.chaos.schedule import KINDS, Planned
from tests.chaos.stage import Stage

Strike = Callable[[Stage, Planned], List[str]]
STRIKES: Dict[str, Strike] = {}
#: A script of somebody else that keeps the server for so many microseconds.
_SLOW = "local t = redis.call('TIME') local until_us = t[1] * 1000000 + t[2] + ARGV[1] " \
        "repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] > until_us return 1"  # fmt: skip


def strike(stage: Stage, fault: Planned) -> None:
    """Carry one out, and write down when it began and ended, and on whom."""
    stage.events.put("begin", number=fault.number, kind=fault.kind)
    on: List[str] = []
    failure = ""
    try:
        on = STRIKES[fault.kind](stage, fault)
    except ElkError as exc:  # an operator's command in the middle of another fault
        on, failure = ["nobody"], str(exc)[:200]
    finally:
        stage.events.put("end", number=fault.number, kind=fault.kind, on=on, failure=failure)


def kind(name: str) -> Callable[[Strike], Strike]:
    assert name in KINDS, name

    def register(function: Strike) -> Strike:
        STRIKES[name] = function
        return function

    return register


# ---------------------------------------------------------------- processes


def _kill(stage: Stage, slot: Optional[Slot]) -> List[str]:
    if slot is None:
        return ["nobody"]
    name = slot.name
    slot.signal(signal.SIGKILL)
    return [name]


@kind("kill")
def kill(stage: Stage, fault: Planned) -> List[str]:
    return _kill(stage, stage.slot(fault.slot))


@kind("kill leader")
def kill_leader(stage: Stage, fault: Planned) -> List[str]:
    return _kill(stage, stage.leader())


@kind("kill half")
def kill_half(stage: Stage, fault: Planned) -> List[str]:
    return [name for slot in stage.crew.slots[fault.slot % 2 :: 2] for name in _kill(stage, slot)]


def _freeze(stage: Stage, slot: Optional[Slot], seconds: float) -> List[str]:
    if slot is None:
        return ["nobody"]
    name, process = slot.name, slot.process
    slot.frozen += 1
    slot.signal(signal.SIGSTOP)
    stage.lasts(seconds)
    slot.frozen -= 1
    if process is not None and process is slot.process and slot.frozen <= 0:
        slot.signal(signal.SIGCONT)
    return [name]


for _leases in ("0.5", "1.5", "3"):
    kind("freeze %s leases" % _leases)(lambda stage, fault: _freeze(stage, stage.slot(fault.slot), fault.seconds))


@kind("freeze leader")
def freeze_leader(stage: Stage, fault: Planned) -> List[str]:
    return _freeze(stage, stage.leader(), fault.seconds)


@kind("rolling deploy")
def rolling_deploy(stage: Stage, fault: Planned) -> List[str]:
    struck = []
    for slot in list(stage.crew.slots):
        if not slot.wanted or not slot.alive:
            continue
        before = slot.born
        struck.append(slot.name)
        slot.signal(signal.SIGTERM)
        until = now() + 15.0
        while slot.born == before and now() < until and not stage.over.is_set():
            stage.lasts(0.05)
        stage.lasts(fault.seconds)
    return struck


@kind("join and leave")
def join_and_leave(stage: Stage, fault: Planned) -> List[str]:
    spare = [slot for slot in stage.crew.slots if not slot.wanted]
    if not spare:
        return ["nobody"]
    spare[0].wanted = True
    stage.lasts(fault.seconds)
    spare[0].wanted = False
    name = spare[0].name
    spare[0].signal(signal.SIGTERM)
    return [name or "nobody"]


def _order(stage: Stage, slot: Slot, what: str, seconds: float, times: int = 1) -> List[str]:
    slot.order(what, seconds, times)
    stage.lasts(seconds)
    return [slot.name]


@kind("os._exit")
def exit_now(stage: Stage, fault: Planned) -> List[str]:
    return _order(stage, stage.slot(fault.slot), "exit in a processor", fault.seconds)


@kind("GIL held")
def hold_the_gil(stage: Stage, fault: Planned) -> List[str]:
    return _order(stage, stage.slot(fault.slot), "GIL held", fault.seconds)


# ---------------------------------------------------------------- content, planner


@kind("processor raises")
def processor_raises(stage: Stage, fault: Planned) -> List[str]:
    return _order(stage, stage.slot(fault.slot), "processor raises", fault.seconds)


@kind("all processors raise")
def all_processors_raise(stage: Stage, fault: Planned) -> List[str]:
    for slot in stage.crew.slots:
        slot.order("processor raises", fault.seconds)
    stage.lasts(fault.seconds)
    return []


@kind("processor hangs")
def processor_hangs(stage: Stage, fault: Planned) -> List[str]:
    return _order(stage, stage.slot(fault.slot), "processor hangs", fault.seconds, 1 + fault.n % 2)


@kind("poison")
def poison(stage: Stage, fault: Planned) -> List[str]:
    stage.space.poison(1 + fault.n % 3)
    stage.lasts(fault.seconds)
    stage.space.cure()
    return ["nobody"]  # whom it killed is told by the journals


def _planner(what: str, only_leader: bool = False) -> Strike:
    def told(stage: Stage, fault: Planned) -> List[str]:
        # All of them: whoever leads, or comes to lead meanwhile.
        leader = stage.leader() if only_leader else None
        for slot in [leader] if leader else stage.crew.slots:
            slot.order(what, fault.seconds)
        stage.lasts(fault.seconds)
        return []

    return told


kind("planner raises")(_planner("planner raises"))
kind("planner hangs")(_planner("planner hangs", only_leader=True))
kind("planner nonsense")(_planner("planner talks nonsense"))


@kind("IDs jump")
def ids_jump(stage: Stage, fault: Planned) -> List[str]:
    stage.grow(int(fault.n * stage.rate) // CELL * CELL)
    return []


# ---------------------------------------------------------------- the store


@kind("server restart")
def server_restart(stage: Stage, fault: Planned) -> List[str]:
    with stage.server_turn:
        stage.server.restart()
    return []


@kind("server kill")
def server_kill(stage: Stage, fault: Planned) -> List[str]:
    with stage.server_turn:
        stage.server.kill()
        stage.lasts(fault.seconds)
        stage.server.restart()
    return []


@kind("server frozen")
def server_frozen(stage: Stage, fault: Planned) -> List[str]:
    with stage.server_turn:
        stage.server.freeze()
        stage.lasts(fault.seconds)
        stage.server.thaw()
    return []


@kind("data loss: flush")
def flush(stage: Stage, fault: Planned) -> List[str]:
    with stage.server_turn, stage.hand() as client:
        client.flushall()
    return []


@kind("data loss: restart")
def restart_empty(stage: Stage, fault: Planned) -> List[str]:
    with stage.server_turn:
        stage.server.restart(empty=True)
    return []


@kind("out of memory")
def out_of_memory(stage: Stage, fault: Planned) -> List[str]:
    with stage.server_turn:
        with stage.hand() as client:
            client.config_set("maxmemory", 1)
            stage.lasts(fault.seconds)
        stage.free_memory()
    return []


@kind("slow script")
def slow_script(stage: Stage, fault: Planned) -> List[str]:
    with stage.hand() as client:
        client.eval(_SLOW, 0, int(fault.seconds * 1e6))
    return []


def _again(stage: Stage, seconds: float, every: float, *words: Any) -> List[str]:
    until = now() + seconds
    while now() < until and not stage.over.is_set():
        with stage.hand() as client:
            client.execute_command(*words)
        stage.lasts(every)
    return []


@kind("scripts flushed")
def scripts_flushed(stage: Stage, fault: Planned) -> List[str]:
    return _again(stage, fault.seconds, 0.1, "SCRIPT", "FLUSH")


@kind("clients killed")
def clients_killed(stage: Stage, fault: Planned) -> List[str]:
    return _again(stage, fault.seconds, 1.0, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


# ---------------------------------------------------------------- the network


def _wires(what: str, value: Any, everybody: bool = False) -> Strike:
    def struck(stage: Stage, fault: Planned) -> List[str]:
        slots = stage.crew.slots if everybody else [stage.slot(fault.slot)]
        given = value(fault) if callable(value) else value
        with contextlib.ExitStack() as stack:
            for slot in slots:
                stack.enter_context(slot.wire.suffering(what, given))
            stage.lasts(fault.seconds)
        return [] if everybody else [slots[0].name]

    return struck


def _latency(fault: Planned) -> float:
    return (0.02, 0.05, 0.1, 0.2)[fault.n % 4]


kind("latency")(_wires("delay", _latency))
kind("latency for all")(_wires("delay", _latency, everybody=True))
kind("black hole")(_wires("mode", "drop"))
kind("black hole for all")(_wires("mode", "drop", everybody=True))
kind("requests lost")(_wires("one_way", "requests"))
kind("replies lost")(_wires("one_way", "replies"))
kind("late delivery")(_wires("mode", "hold"))
kind("every nth reply lost")(_wires("every", lambda fault: fault.n, everybody=True))


@kind("connections reset")
def connections_reset(stage: Stage, fault: Planned) -> List[str]:
    for slot in stage.crew.slots:
        slot.wire.cut()
    return []


# ---------------------------------------------------------------- the operator


def _until_taken(stage: Stage, ask: Callable[[], Any]) -> None:
    """Ask again until the store takes it: the operator wants it, and other faults are in the way."""
    while not stage.over.is_set():
        with contextlib.suppress(ElkError):
            ask()
            return
        stage.lasts(0.5)


@kind("pause")
def pause(stage: Stage, fault: Planned) -> List[str]:
    stage.admin.pause()
    stage.lasts(fault.seconds)
    _until_taken(stage, stage.admin.resume)
    return []


@kind("cancel and retry")
def cancel_and_retry(stage: Stage, fault: Planned) -> List[str]:
    ids = stage.running_ids(fault.n)
    for partition_id in ids:
        stage.admin.cancel(partition_id)
    stage.lasts(fault.seconds)
    if ids:
        _until_taken(stage, lambda: stage.admin.retry_failed(ids))
    return ["nobody"]


@kind("release")
def release(stage: Stage, fault: Planned) -> List[str]:
    for partition_id in stage.running_ids(fault.n):
        stage.admin.release(partition_id)
    return ["nobody"]


@kind("priorities")
def priorities(stage: Stage, fault: Planned) -> List[str]:
    ids = stage.running_ids(200)
    if ids:
        stage.admin.set_priority(ids[fault.n :: fault.n], fault.n)
    return ["nobody"]


@kind("retry all")
def retry_all(stage: Stage, fault: Planned) -> List[str]:
    stage.admin.retry_failed()
    return ["nobody"]


assert set(STRIKES) == set(KINDS), set(STRIKES) ^ set(KINDS)
