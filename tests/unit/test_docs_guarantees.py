"""`docs/guarantees.md` names tests: each of them exists."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.built import REPOSITORY

PAGE = (REPOSITORY / "docs/guarantees.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
FILES = sorted({file for file, _ in NAMED})


def defined(file: str) -> set[str]:
    """Functions and classes of a module, those inside of classes included."""
    tree = ast.parse((REPOSITORY / file).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


@pytest.mark.parametrize("file", FILES)
def test_every_test_that_the_page_names_exists(file: str) -> None:
    missing = {name for of, name in NAMED if of == file} - defined(file)
    assert not missing


def test_the_page_names_tests_and_no_file_that_is_not_there() -> None:
    assert len(NAMED) > 60
    for path in re.findall(r"`(tests/[\w/.]+\.py)[`:]", PAGE):
        assert (REPOSITORY / path).is_file(), path


def test_every_promise_of_a_table_has_a_test() -> None:
    """Rows of tables that have a column "tested by"."""
    is_tested = False
    for line in PAGE.splitlines():
        if not line.startswith("|"):
            is_tested = False
        elif line.rstrip().endswith("| tested by |"):
            is_tested = True
        elif is_tested and not set(line) <= set("|- "):
            assert "::" in line.rsplit("|", 2)[-2], line
