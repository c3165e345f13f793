"""The picture keeps its shape, and shows what matters, on every terminal."""

import io

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from agent.demo.flights import DAY_MS, YEAR_START_MS
from agent.demo.story import Story
from agent.demo.view import View
from agent.demo.watch import FEATURES, Values, Watch
from tests.support.demo_states import event, numeric_column, ordinary_day, stream

ROWS = 200


def play(days: int, *, break_at: int | None = None) -> tuple[Story, Watch]:
    """A year with three airports; JFK's temperature turns null on day `break_at`, and an alarm says so."""
    rng = np.random.default_rng(5)
    story, watch = Story(365, 120.0, YEAR_START_MS), Watch(start_ms=YEAR_START_MS)
    january = ordinary_day(rng, "EWR", 3000)
    watch.reference = {name: Values.from_json(january[name], 3000) for name in FEATURES}
    for day in range(days):
        at_s = day / 3
        streams = []
        for origin in ("EWR", "JFK", "LGA"):
            features = ordinary_day(rng, origin, ROWS)
            if origin == "JFK" and break_at is not None and day >= break_at:
                features["temp"] = numeric_column(np.full(ROWS, np.nan))
            streams.append(stream(origin, day, features, ROWS, late=40))
        if day == break_at:
            story.take_message(
                {
                    "event": "injected",
                    "what": "JFK weather feed turned null",
                    "feed": "weather",
                    "streams": ["JFK"],
                    "features": ["temp", "dewp"],
                    "at_s": at_s,
                    "sim_ms": YEAR_START_MS + day * DAY_MS,
                }
            )
        rows = 3 * ROWS * (day + 1)
        message = {"produced": rows + 11, "labels": rows, "sim_ms": YEAR_START_MS + day * DAY_MS}
        story.take_message({"event": "tick", **message})
        state = {
            "streams": streams,
            "tally": {"rows": rows, "labels": rows - 5, "dropped": {}},
            "lag": {"records": 11},
        }
        story.take_state(state, at_s)
        watch.feed(state)
        if day == break_at:
            alarm = event(
                "contract", day, source="weather", features=["temp", "dewp"], origin="JFK"
            )
            story.take_event("on-call", alarm, at_s + 0.5)
    return story, watch


def screen(story: Story, watch: Watch, width: int, height: int, **options: bool) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(View(**options).draw(story, watch, width, height))
    return capture.get().split("\n")[:-1]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (132, 43), (220, 60), (60, 16)])
@pytest.mark.parametrize("days", [0, 1, 40])
def test_the_picture_fits_the_terminal(width, height, days):
    story, watch = play(days, break_at=30)
    lines = screen(story, watch, width, height)
    assert len(lines) == height
    assert max(cell_len(line) for line in lines) <= width


def test_counts_models_and_features_are_on_the_smallest_screen():
    story, watch = play(40, break_at=30)
    text = "\n".join(screen(story, watch, 80, 24))
    assert "24,000 rows" in text
    assert "11 records waiting" in text
    assert "origin JFK" in text
    assert "distance" in text
    assert "temp" in text
    assert "January" in text


def test_a_caught_break_names_source_airport_features_and_delay():
    story, watch = play(40, break_at=30)
    text = "\n".join(screen(story, watch, 100, 30))
    assert "31 Jan  weather JFK: temp, dewp: 32.6% of rows have no value" in text
    assert "injected: JFK weather feed turned null (one alarm, caught after 0.5 s)" in text
    jfk = next(line for line in text.split("\n") if "origin JFK" in line)
    assert "broken: temp, dewp" in jfk
    assert text.count("broken:") == 1
    assert "JFK 100%" in text


def test_a_ticket_of_the_data_itself_is_told_from_a_page():
    story, watch = play(40)
    ticket = event("season", 39, source="weather", features=["temp"], severity="ticket")
    story.take_event("on-call", ticket, 14.0)
    text = "\n".join(screen(story, watch, 100, 30))
    assert "09 Feb  weather: temp: 32.6% of rows have no value" in text
    assert "ticket: the data itself" in text
    assert "broken:" not in text


def test_a_canary_is_one_line_and_its_rollback_is_shown():
    story, watch = play(40)
    sim_ms = YEAR_START_MS + 38 * DAY_MS
    story.take_message({"event": "canary", "version": "2", "at_s": 12.0, "sim_ms": sim_ms})
    features = ordinary_day(np.random.default_rng(1), "EWR", ROWS)
    canary = [
        stream(origin, 39, features, ROWS, late=100) | {"version": "2"} for origin in ("EWR", "JFK")
    ]
    watch.feed({"streams": canary})
    assert "a tenth of the traffic" in "\n".join(screen(story, watch, 100, 30))
    for action in ("on-call", "rollback"):
        story.take_event(action, event("canary", 39, version="2", detail="psi is 1.7"), 13.0)
    story.take_message({"event": "rolled_back", "at_s": 13.4})
    lines = screen(story, watch, 100, 30)
    (row,) = [line for line in lines if line.startswith("  canary v2 ")]
    assert "16,000" in row
    assert "50%" in row
    assert "worse than its twin, rolled back" in row
    text = "\n".join(lines)
    assert "canary v2: prediction.score: psi is 1.7" in text
    assert "signed rollback event, rolled back after 1.4 s" in text


def test_without_a_break_the_log_says_that_all_is_calm():
    story, watch = play(20)
    assert "no alarm so far" in "\n".join(screen(story, watch, 80, 24))


def test_two_states_of_a_distribution_are_drawn_on_one_axis():
    story, watch = play(20)
    for day in range(20, 28):
        features = ordinary_day(np.random.default_rng(day), "EWR", ROWS)
        features["distance"] = numeric_column(np.full(ROWS, 3200.0))
        watch.feed({"streams": [stream("EWR", day, features, ROWS)]})
    watch.streams = {key: s for key, s in watch.streams.items() if key[1] == "EWR"}
    line = next(each for each in screen(story, watch, 80, 24) if each.startswith("distance"))
    reference, now = line[11:29], line[30:48]
    assert reference[0] != " "
    assert reference[-1] == " "
    assert now.strip()
    assert now[0] == " "


def test_ascii_terminals_get_no_block_characters():
    story, watch = play(40, break_at=30)
    text = "\n".join(screen(story, watch, 80, 24, ascii_only=True))
    assert not set(text) & set("▁▂▃▄▅▆▇█━─")
