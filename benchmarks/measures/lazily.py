"""A service that is started when it is first asked: a measure whose rounds are all saved starts none."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Lazy(Generic[T]):
    """The value of a context manager that is entered on first use and left with `stack`."""

    def __init__(self, stack: ExitStack, make: Callable[[], AbstractContextManager[T]]) -> None:
        self._stack = stack
        self._make = make
        self._value: list[T] = []
        self.on_start: Callable[[T], Any] | None = None

    def get(self) -> T:
        """Return the value, entering first if nobody has asked for it before."""
        if not self._value:
            self._value.append(self._stack.enter_context(self._make()))
            if self.on_start is not None:
                self.on_start(self._value[0])
        return self._value[0]
