"""Log lines: their two forms, and repeats that are held back."""

import io
import json
import logging

import pytest

from agent import logs
from agent.config import Log
from agent.logs import Seldom, set_up


@pytest.fixture
def lines():
    """Set logging up on a buffer; return a function that gives the lines written so far."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logs._LIBRARIES}
    buffer = io.StringIO()

    def start(**options: str):
        set_up(Log(**options), buffer)  # type: ignore[arg-type]
        return lambda: buffer.getvalue().splitlines()

    yield start
    logging.captureWarnings(False)
    root.handlers[:], root.level = before[0], before[1]
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_text_line_has_time_level_logger_message_and_extras(lines) -> None:
    read = lines()
    logging.getLogger("agent.x").info("joined %s", "g", extra={"epoch": 2})
    time, level, rest = read()[0].split(maxsplit=2)
    assert time.endswith("Z") and len(time) == 24
    assert level == "INFO"
    assert rest == "agent.x: joined g epoch=2"


def test_a_message_cannot_forge_a_second_line(lines) -> None:
    read = lines()
    logging.getLogger("agent.x").warning("model %s", "a\n2026-01-01T00:00:00Z ERROR gotcha\r")
    assert len(read()) == 1


def test_json_lines_are_one_object_each_with_the_exception_inside(lines) -> None:
    read = lines(format="json")
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("agent.x").exception("failed", extra={"topic": "t", "level": "shadow"})
    (line,) = read()
    parsed = json.loads(line)
    assert parsed["level"] == "error"
    assert (parsed["logger"], parsed["message"], parsed["topic"]) == ("agent.x", "failed", "t")
    assert parsed["exception"].endswith("ValueError: boom")


def test_the_level_is_kept(lines) -> None:
    read = lines(level="warning")
    logging.getLogger("agent.x").info("no")
    logging.getLogger("agent.x").warning("yes")
    assert len(read()) == 1


def test_chatter_of_libraries_is_left_out_unless_debugging(lines) -> None:
    read = lines()
    logging.getLogger("aiokafka.consumer").info("Joined group")
    assert read() == []
    read = lines(level="debug")
    logging.getLogger("aiokafka.consumer").info("Joined group")
    assert len(read()) == 1


def test_one_line_repeated_by_a_library_is_held_back(lines) -> None:
    read = lines()
    for node in range(50):
        logging.getLogger("aiokafka").error("Unable connect to node with id %s", node)
    logging.getLogger("aiokafka").error("something else")
    assert len(read()) == 2


def test_seldom_lets_one_pass_in_ten_seconds_and_counts_the_rest() -> None:
    clock = Clock()
    seldom = Seldom(clock=clock)
    assert seldom.passes("a") == 0
    assert seldom.passes("b") == 0
    assert [seldom.passes("a") for _ in range(3)] == [None] * 3
    clock.now = 9.9
    assert seldom.passes("a") is None
    clock.now = 10.0
    assert seldom.passes("a") == 4
    assert seldom.passes("a") is None
    clock.now = 20.0
    assert seldom.passes("a") == 1


def test_seldom_remembers_a_bounded_number_of_keys() -> None:
    seldom = Seldom(clock=Clock(), max_keys=3)
    assert [seldom.passes(key) for key in "abcd"] == [0, 0, 0, 0]
    assert seldom.passes("d") is None
    assert seldom.passes("a") == 0  # forgotten
