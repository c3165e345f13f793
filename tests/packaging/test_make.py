"""Makefile, `.ci/run` and the lock files: what a fresh clone depends on."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.built import REPOSITORY

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
LOCKS = [f"requirements{part}.lock" for part in ("", "-build", "-demo", "-dev", "-bench")]


def make(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    # A make above this one would pass its flags on.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=REPOSITORY, env=inherited | env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def locked(name: str) -> dict[str, set[str]]:
    """Package -> versions; a package may stand twice, for different Pythons."""
    found: dict[str, set[str]] = {}
    for package, version in re.findall(
        r"^([a-z0-9-]+)==([^ ;\\]+)", (REPOSITORY / name).read_text(), re.MULTILINE
    ):
        found.setdefault(package, set()).add(version)
    return found


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", r)[0].lower().replace("_", "-") for r in requirements}


def test_help_lists_every_target() -> None:
    done = make("help")
    assert done.returncode == 0
    for target in (
        "demo",
        "test",
        "lint",
        "fmt",
        "docs",
        "bench",
        "audit",
        "sbom",
        "lock",
        "clean",
    ):
        assert f"make {target} " in done.stdout


def test_no_python_is_said_with_the_next_step(tmp_path: Path) -> None:
    stamp = tmp_path / "venv/.stamp"
    done = make(f"VENV={stamp.parent}", "PYTHON=", str(stamp))
    assert done.returncode != 0
    assert "no Python 3.11 or newer with venv on the PATH; install python3" in done.stderr


def test_an_old_python_is_passed_over(tmp_path: Path) -> None:
    """`python3` is too old here and `python3.13` is missing: the next name that works is taken."""
    for name, text in (
        ("python3", "#!/bin/sh\nexit 1\n"),
        ("python3.12", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    venv = tmp_path / "venv"
    stamp = f"{venv}/.stamp"
    done = make("-n", f"VENV={venv}", stamp, PATH=f"{tmp_path}:/usr/bin:/bin")
    chosen = re.search(r"(\S+) .ci/make_venv.py", done.stdout)
    assert chosen is not None and chosen[1] == "python3.12", done.stdout + done.stderr


def test_ci_runs_the_tests_with_ci_true_from_any_folder(tmp_path: Path) -> None:
    stub = tmp_path / "make"
    stub.write_text('#!/bin/sh\necho "$CI $PWD $*"\n')
    stub.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if k != "CI"}
    done = subprocess.run(
        [REPOSITORY / ".ci/run"], cwd="/", env=env | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout == f"true {REPOSITORY} audit\ntrue {REPOSITORY} test\n"


@pytest.mark.parametrize("name", [*LOCKS, "requirements-audit.lock"])
def test_locks_have_hashes_and_no_address(name: str) -> None:
    text = (REPOSITORY / name).read_text()
    assert "://" not in text and "--index" not in text
    blocks = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert blocks and all("--hash=sha256:" in block for block in blocks)


def test_the_locks_agree_with_each_other_and_with_the_project() -> None:
    runtime, build, demo, development, everything = map(locked, LOCKS)
    for part in (runtime, build, demo, development):
        for package, versions in part.items():
            assert everything.get(package) == versions, package
    groups = dict(PYPROJECT["dependency-groups"])
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert names(PYPROJECT["project"]["dependencies"]) <= runtime.keys()
    assert names(groups["build"]) <= build.keys()
    assert runtime.keys() | build.keys() | names(extras["demo"]) <= demo.keys()
    assert names(groups.pop("audit")) <= locked("requirements-audit.lock").keys()
    for requirements in (*groups.values(), extras["demo"], extras["parquet"]):
        assert names(requirements) <= development.keys()
    assert names(extras["bench"]) <= everything.keys()


def test_what_only_builds_or_tests_is_not_in_the_image() -> None:
    runtime = locked("requirements.lock")
    assert not {"pytest", "hatchling", "scikit-learn", "mypy", "matplotlib"} & runtime.keys()


def test_what_is_only_for_benchmarks_is_not_needed_to_develop() -> None:
    bench = names(PYPROJECT["project"]["optional-dependencies"]["bench"])
    assert not bench & locked("requirements-dev.lock").keys()


def test_bench_passes_on_which_benchmarks_are_wanted(tmp_path: Path) -> None:
    stamp = tmp_path / "stamp"
    stamp.touch()
    done = make("-n", f"BENCH_STAMP={stamp}", "bench", "ONLY=decode,sketch")
    assert "-m benchmarks.report --only decode,sketch" in done.stdout, done.stdout + done.stderr


def test_the_changelog_names_the_version() -> None:
    from agent import __version__

    assert f"\n## {__version__}" in (REPOSITORY / "CHANGELOG.md").read_text()
