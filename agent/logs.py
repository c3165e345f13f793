"""Log lines on stderr, as text or one JSON object a line; repeated lines are held back.

Standard output belongs to documents and tables; nothing here writes to it.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TextIO

from agent.config import Log

REPEAT_AFTER_S = 10.0

#: Library -> least severe level shown. Their informational lines describe every rebalance step and
#: every request; the agent says what matters of it in its own words.
_LIBRARIES = {"aiokafka": "WARNING", "aiohttp": "WARNING", "grpc": "WARNING", "numba": "WARNING"}
#: Libraries that repeat one line many times a second while a broker is away.
_REPETITIVE = ("aiokafka",)

_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {
    "message",
    "asctime",
    "taskName",
}


class Seldom:
    """Lets one event of each key pass in `every_s` seconds, and counts the others.

    At most `max_keys` keys are remembered; the one that passed longest ago is forgotten first.
    Thread-safe.
    """

    def __init__(
        self,
        every_s: float = REPEAT_AFTER_S,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_keys: int = 1000,
    ) -> None:
        self._every_s = every_s
        self._clock = clock
        self._max_keys = max_keys
        self._passed: OrderedDict[object, tuple[float, int]] = OrderedDict()
        self._lock = threading.Lock()

    def passes(self, key: object) -> int | None:
        """None: hold back. Else the number held back since the last that passed."""
        now = self._clock()
        with self._lock:
            last = self._passed.get(key)
            if last is not None and now - last[0] < self._every_s:
                self._passed[key] = (last[0], last[1] + 1)
                return None
            self._passed[key] = (now, 0)
            self._passed.move_to_end(key)
            if len(self._passed) > self._max_keys:
                self._passed.popitem(last=False)
            return last[1] if last else 0


def set_up(config: Log, stream: TextIO | None = None) -> None:
    """Send all log lines of the process to `stream` (stderr), replacing earlier handlers."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonLines() if config.format == "json" else TextLines())
    handler.addFilter(_HoldBack())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(config.level.upper())
    for name, level in _LIBRARIES.items():
        logging.getLogger(name).setLevel("DEBUG" if config.level == "debug" else level)
    # A line that cannot be formatted or written must not take the agent with it.
    logging.raiseExceptions = False
    logging.captureWarnings(True)


class TextLines(logging.Formatter):
    """`2026-01-02T03:04:05.678Z INFO  agent.web.server: message key=value`"""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname:<7} {record.name}: {record.getMessage()}"
        line += "".join(f" {key}={value}" for key, value in _extras(record).items())
        # One event is one line, whatever a broker or a record put into the text.
        line = line.replace("\r", "\\r").replace("\n", "\\n")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """`{"time":…,"level":…,"logger":…,"message":…}` and what the call gave as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in _extras(record).items() if key not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class _HoldBack(logging.Filter):
    """Holds back repeats of one library's line. Errors of ours are limited where they are made."""

    def __init__(self) -> None:
        super().__init__()
        self._seldom = Seldom()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] not in _REPETITIVE:
            return True
        held_back = self._seldom.passes((record.name, record.msg))
        if held_back:
            record.msg = f"{record.getMessage()} (and {held_back} more like it)"
            record.args = ()
        return held_back is not None


def _time(record: logging.LogRecord) -> str:
    moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {k: v for k, v in record.__dict__.items() if k not in _STANDARD}
