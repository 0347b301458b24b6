"""A stand-in that makes chosen calls of any object fail."""

from __future__ import annotations

import collections
import threading
from typing import Any, Counter, Dict, List, Optional, Sequence, Tuple, Type, Union

Error = Union[BaseException, Type[BaseException]]


class _Rule:
    def __init__(self, nth: Optional[int], error: Error, after: bool) -> None:
        self.left = nth
        self.error = error
        self.after = after


class _Faults:
    """The rules and counts that a :class:`Faulty` object shares with those derived from it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls: Counter[str] = collections.Counter()
        self.rules: Dict[str, List[_Rule]] = {}

    def add(self, method: str, rule: _Rule) -> None:
        if rule.left is not None and rule.left < 1:
            raise ValueError("nth counts from 1, the next call (got %r)" % (rule.left,))
        with self.lock:
            self.rules.setdefault(method, []).append(rule)

    def take(self, method: str) -> Tuple[Optional[Error], Optional[Error]]:
        """Count one call; return what to raise before and after it."""
        due: Dict[bool, Error] = {}
        with self.lock:
            self.calls[method] += 1
            kept = []
            for rule in self.rules.get(method, ()):
                if rule.left is not None:
                    rule.left -= 1
                if not rule.left:
                    due[rule.after] = rule.error
                if rule.left != 0:
                    kept.append(rule)
            self.rules[method] = kept
        return due.get(False), due.get(True)


class Faulty:
    """Stand in for any object and make chosen calls fail. Thread-safe as far as the object is.

    ``isinstance`` sees the wrapped object's class. Calls that the object makes on itself do not pass through here.

    :param derive: methods whose result is wrapped too and obeys the same rules (a store's ``with_deadline``).
    """

    def __init__(self, wrapped: Any, derive: Sequence[str] = ("with_deadline",), _faults: Optional[_Faults] = None):
        self._wrapped = wrapped
        self._derive = tuple(derive)
        self._faults = _Faults() if _faults is None else _faults

    def fail_before(self, method: str, nth: Optional[int], exc: Error) -> None:
        """Raise *exc* instead of the *nth* call from now on (1 = the next; None = every call until :meth:`heal`)."""
        self._check(method)
        self._faults.add(method, _Rule(nth, exc, after=False))

    def commit_then_lose(self, method: str, nth: Optional[int], exc: Error) -> None:
        """Make the *nth* call, then raise *exc* instead of its answer, as when a reply is lost on the way."""
        self._check(method)
        self._faults.add(method, _Rule(nth, exc, after=True))

    def heal(self) -> None:
        """Forget all rules; the counts stay."""
        with self._faults.lock:
            self._faults.rules.clear()

    @property
    def calls(self) -> Dict[str, int]:
        """How often each method was called, failed calls included; those never called are absent."""
        with self._faults.lock:
            return dict(self._faults.calls)

    def _check(self, method: str) -> None:
        if not callable(getattr(self._wrapped, method, None)):
            raise AttributeError("%r has no method %r to make fail" % (self._wrapped, method))

    def __getattr__(self, name: str) -> Any:
        # Only reached for names that Faulty itself lacks. Never for "_wrapped" (copy and pickle ask before it is set).
        if name.startswith("__") or name in ("_wrapped", "_derive", "_faults"):
            raise AttributeError(name)
        value = getattr(self._wrapped, name)
        if not callable(value) or isinstance(value, type):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            before, after = self._faults.take(name)
            if before is not None:
                raise before
            result = value(*args, **kwargs)
            if after is not None:
                raise after
            return Faulty(result, self._derive, self._faults) if name in self._derive else result

        return call

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._wrapped)

    def __repr__(self) -> str:
        return "Faulty(%r)" % (self._wrapped,)
