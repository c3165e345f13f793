"""A thread that owns one object: the loop asks it to run functions there and awaits the answers.

Requests pass through one FIFO, so a read sees every change that was asked for before it. The fold
lives in such a thread, and exports are encoded there: a large one never holds the event loop.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from agent.thread_name import show_thread_name

T = TypeVar("T")
Owned = TypeVar("Owned")

_Job = tuple[Callable[[Any], Any], "asyncio.Future[Any]"]


class OwnerThread(Generic[Owned]):
    """A thread that alone touches one object. `call` runs a function on it there, in order.

    An exception of the function is raised to the awaiting caller; the thread goes on.
    """

    def __init__(self, name: str, owned: Owned) -> None:
        self._owned = owned
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[[Owned], T]) -> asyncio.Future[T]:
        """Queue `function(owned)`; the future resolves on the loop."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._inbox.put((function, future))
        return future

    def replace(self, make: Callable[[], Owned]) -> asyncio.Future[None]:
        """Make another object to own, on the thread; requests queued behind this get that one."""

        def swap(_: Owned) -> None:
            self._owned = make()

        return self.call(swap)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def close(self, timeout_s: float) -> None:
        """Finish what is queued, then end the thread; waits at most `timeout_s`."""
        self._inbox.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        show_thread_name()
        while (job := self._inbox.get()) is not None:
            function, future = job
            try:
                result = function(self._owned)
            except BaseException as error:
                self._answer(future, None, error)
            else:
                self._answer(future, result, None)
                del result
            del job, function, future  # a large answer is not kept until the next request

    def _answer(
        self, future: asyncio.Future[Any], result: Any, error: BaseException | None
    ) -> None:
        def settle() -> None:
            if future.done():  # the caller was cancelled meanwhile
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(settle)
