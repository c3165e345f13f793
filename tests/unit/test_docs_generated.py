"""Generated pages say what the code says."""

from agent import docs
from agent.config import schema


def test_generated_pages_are_not_stale() -> None:
    assert docs.stale() == {}, "run make docs"


def test_every_option_is_described_and_has_a_variable() -> None:
    options = [option for group in schema.groups() for option in group.options]
    assert len(options) > 100
    assert [o.path for o in options if not o.description] == []
    assert [o.path for o in options if not o.environment and "[]" not in o.path] == []


def test_every_group_is_described() -> None:
    assert [g.path for g in schema.groups() if not g.description] == []


def test_numbers_have_a_bound_or_are_declared_free() -> None:
    free = {
        *("features.<name>.min", "features.<name>.max"),
        *("monitors[].when.above", "monitors[].when.below"),
    }
    unbounded = {
        option.path
        for group in schema.groups()
        for option in group.options
        if option.type in ("a number", "a whole number")
    }
    assert unbounded == free


def test_option_names_end_with_their_unit() -> None:
    for group in schema.groups():
        for option in group.options:
            if "timeout" in option.path or "interval" in option.path:
                assert option.unit == "seconds", option.path
