"""One row of the fault table."""

from __future__ import annotations

from typing import Tuple

import attr


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class Fault:
    """A fault, what must happen, and what shows it."""

    #: The letter of its group and a number: ``P3``. Never given to another fault.
    id: str
    #: The fault, as an operator would say it: one line.
    fault: str
    #: What is expected then: one line.
    expected: str
    #: The tests, as pytest names them, without parameters: ``tests/faults/test_process.py::test_...``.
    tests: Tuple[str, ...]
    #: The guard that the control switches off: one line; or, where nothing can be switched off, why not.
    control: str
    #: The tests with the control in them; empty only when ``control`` says why there is none.
    controls: Tuple[str, ...] = ()
    #: In the documentation only printed lines that begin with one of these; empty: of all.
    about: Tuple[str, ...] = ()
