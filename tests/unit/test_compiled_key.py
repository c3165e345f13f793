"""What files of kernels are named after: every source, constant, version, option and CPU that changes them."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from agent.compiled import key as keys
from agent.errors import InferometerError


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the program, which the key is then made of."""
    shutil.copytree(keys._AGENT, tmp_path / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(keys, "_AGENT", tmp_path / "agent")
    return tmp_path / "agent"


def test_the_key_changes_with_any_source(copied: Path) -> None:
    seen = {keys.cache_key()}
    assert keys.cache_key() in seen
    changed = ("sketch/kernels/moments.py", "decode/kernels/scan.py", "compiled/object_code.py")
    for name in changed:
        with (copied / name).open("a") as file:
            file.write("# changed\n")
        assert keys.cache_key() not in seen
        seen.add(keys.cache_key())
    (copied / "emit/kernels/more.py").write_text("")
    assert keys.cache_key() not in seen


@pytest.mark.parametrize(
    ("module", "constant"),
    [
        ("types.py", "WINDOW_LATE"),
        ("decode/leaves.py", "N_FIELDS"),
        ("decode/times.py", "LIMIT_MS"),
        ("decode/span_ids.py", "GOLDEN"),
    ],
)
def test_the_key_changes_with_a_constant_that_is_compiled_in(
    copied: Path, module: str, constant: str
) -> None:
    before = keys.cache_key()
    text = (copied / module).read_text()
    assert f"\n{constant}" in text
    (copied / module).write_text(text + f"\n{constant} = 77\n")
    assert keys.cache_key() != before


def test_the_key_stays_when_what_no_kernel_needs_changes(copied: Path) -> None:
    before = keys.cache_key()
    for name in ("pipeline.py", "cli.py", "web/server.py", "decode/raw_batches.py"):
        with (copied / name).open("a") as file:
            file.write("# changed\n")
    assert keys.cache_key() == before


# ---------------------------------------------------------------- what kernels import


class _Imports(ast.NodeVisitor):
    """Names of modules, and of what may be one; not what is imported for type checkers alone."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.names.update(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0 and node.module, "imports are absolute"
        self.names.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))


def by_syntax_tree(root: Path) -> set[Path]:
    """What `sources` must find."""
    waiting = {*root.glob("agent/*/kernels/*.py"), *root.glob("agent/compiled/*.py")}
    waiting |= {path.with_name("__init__.py") for path in root.glob("agent/*/kernels/")}
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        found.add(path)
        imports = _Imports()
        imports.visit(ast.parse(path.read_text()))
        for name in imports.names:
            parts = name.split(".")
            files = {root.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)}
            files.add(root.joinpath(*parts).with_suffix(".py"))
            if parts[0] == "agent":
                waiting |= {file for file in files if file.is_file()} - found
    return found


def test_sources_are_all_that_the_syntax_trees_of_kernels_lead_to() -> None:
    assert set(keys.sources()) == by_syntax_tree(keys._AGENT.parent)


@pytest.mark.parametrize("setup", ["", "from agent.compiled import mode; mode.use_files(); "])
def test_every_module_that_importing_all_kernels_imports_is_a_source(setup: str) -> None:
    program = (
        f"{setup}import json, sys; from agent.sketch.kernels.warm import import_all; import_all();"
        "print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'agent']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=100
    )
    imported = {Path(file) for file in json.loads(done.stdout)}
    assert keys._AGENT / "sketch/kernels/moments.py" in imported
    assert imported - set(keys.sources()) == set()


# ---------------------------------------------------------------- everything else


def test_the_key_changes_with_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CPU_NAME", raising=False)
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    seen = {keys.cache_key()}
    for name, value in (
        ("NUMBA_CPU_NAME", "x86-64-v2"),
        ("NUMBA_CPU_NAME", "x86-64-v3"),
        ("NUMBA_CPU_FEATURES", "+sse4.2"),
    ):
        monkeypatch.setenv(name, value)
        assert keys.cache_key() not in seen
        seen.add(keys.cache_key())


def test_the_key_changes_with_what_tells_numba_how_to_compile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in keys.CODE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    seen = {keys.cache_key()}
    for name, value in (("NUMBA_OPT", "1"), ("NUMBA_OPT", "2"), ("NUMBA_BOUNDSCHECK", "1")):
        monkeypatch.setenv(name, value)
        assert keys.cache_key() not in seen
        seen.add(keys.cache_key())


@pytest.mark.parametrize("package", ["numba", "llvmlite", "numpy"])
def test_the_key_changes_with_each_package(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys.cache_key()
    real = keys.version
    monkeypatch.setattr(keys, "version", lambda p: "0.0.1" if p == package else real(p))
    assert keys.cache_key() != before


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_numba(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(keys, "version", without_numba)
    with pytest.raises(InferometerError, match="package numba is not installed"):
        keys.cache_key()
