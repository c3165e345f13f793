"""Cycles are freed though the collector never walks a large heap by itself."""

import json
import subprocess
import sys
import textwrap

from agent.emit.release import release
from agent.types import Metric, NumberPoint


def told(code: str) -> dict[str, object]:
    """What a process of its own prints: collector settings belong to a whole process."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


MAKE = """
    import gc, json, weakref
    from agent import start_up

    class Node:
        pass

    def pass_time():
        kept = [[] for _ in range(200_000)]
        assert gc.get_count()[2] >= 10

    collected = []
    gc.callbacks.append(lambda phase, info: collected.append(info["generation"]) if phase == "start" else None)
    start_up.tune()
    start_up.settle()
    collected.clear()
"""


def test_old_cycles_are_freed_by_tidy_and_by_nothing_else() -> None:
    found = told(
        MAKE
        + """
    node = Node(); node.me = node; ref = weakref.ref(node)
    pass_time()
    del node
    pass_time()
    before, generations = ref() is not None, sorted(set(collected))
    start_up.tidy()
    print(json.dumps({"before": before, "after": ref() is not None, "generations": generations}))
    """
    )
    assert found == {"before": True, "after": False, "generations": [0, 1]}


def test_a_cycle_that_was_set_aside_is_freed_when_the_heap_has_doubled() -> None:
    found = told(
        MAKE
        + """
    node = Node(); node.me = node; ref = weakref.ref(node)
    pass_time()
    start_up.tidy()                       # looked at, alive: set aside
    del node
    pass_time()
    start_up.tidy()
    small = ref() is not None
    kept = [[] for _ in range(2 * gc.get_freeze_count() + 200_000)]
    start_up.tidy()                       # sets aside what has come
    pass_time()
    start_up.tidy()                       # and now looks at all
    print(json.dumps({"small": small, "large": ref() is not None}))
    """
    )
    assert found == {"small": True, "large": False}


def test_released_metrics_are_empty() -> None:
    metrics = [Metric("x", [NumberPoint((), i, 0, i) for i in range(n)]) for n in (0, 1, 256, 1000)]
    release(metrics)
    assert [len(metric.points) for metric in metrics] == [0, 0, 0, 0]
