"""What runs before a process takes work, and gives way to a stop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

from agent import start_up
from agent.sketch.kernels.warm import warm

#: Name of the kernel that is compiled next, and how many are done, of how many.
OnCompiling = Callable[[str, int, int], None]


def load_kernels(on_compiling: OnCompiling) -> asyncio.Future[None]:
    """Compile or load every kernel; `on_compiling` is called on the thread that does.

    A daemon thread, not the loop's pool: a stop does not wait for a compiler.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(None)

    def work() -> None:
        failure: BaseException | None = None
        try:
            warm(on_compiling)
            start_up.settle()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # stopped meanwhile, and the loop is closed
            loop.call_soon_threadsafe(settle, failure)

    threading.Thread(target=work, name="warm-up", daemon=True).start()
    return done


async def unless_stopped(stop: asyncio.Event, work: asyncio.Future[None]) -> bool:
    """True when the work is done; False when `stop` was set first, and it is cancelled.

    Raises what the work raises.
    """
    stopped = asyncio.ensure_future(stop.wait())
    waiting: set[asyncio.Future[Any]] = {work, stopped}
    try:
        if not stop.is_set():
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return False
        work.result()
        return True
    finally:
        for part in waiting:
            part.cancel()
