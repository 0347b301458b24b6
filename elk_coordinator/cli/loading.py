"""Find the user's processor and planner: ``module:Name``."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import Any

from elk_coordinator.admin.telling import one_line
from elk_coordinator.cli.common import UsageError


def put_working_directory_first() -> None:
    """Make modules of the working directory importable, as ``python -m`` does."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def load(target: str, role: str) -> Any:
    """Import ``module:Name`` (dots allowed on both sides) and return the object; a class is called without arguments.

    :param role: what it is for, for messages.
    :raises UsageError: when the text is not of that form, or there is no such module or name.
    :raises Exception: what the user's module or class raises while it is imported or built, unchanged: the traceback
        shows the user's own lines.
    """
    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path:
        raise UsageError("%s: %r is not of the form module:Name" % (role, target))
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as exc:
        # Only a module that is not there is a mistake on the command line; one that fails inside is the user's bug.
        if exc.name and (module_name == exc.name or module_name.startswith(exc.name + ".")):
            raise UsageError(
                "%s: no module %r in %s or on sys.path (%s)" % (role, module_name, os.getcwd(), one_line(exc))
            ) from exc
        raise
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as exc:
            raise UsageError("%s: module %s has no %s" % (role, module_name, path)) from exc
    if not inspect.isclass(found):
        return found
    needed = [
        name
        for name, parameter in _parameters(found)
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise UsageError(
            "%s: %s needs %s, and a class is called without arguments; name an instance or a function instead"
            % (role, target, ", ".join(needed))
        )
    return found()


def _parameters(cls: Any) -> Any:
    try:
        return list(inspect.signature(cls).parameters.items())
    except (TypeError, ValueError):  # a class without a readable signature: call it and see
        return []
