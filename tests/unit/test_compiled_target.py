"""The CPU that kernels are made for: numba is told what the key says, and no other CPU runs them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
from llvmlite import binding

from agent.compiled import target
from agent.compiled.build import build
from agent.compiled.mode import use_files
from agent.errors import ConfigError, InferometerError

V2 = [
    "cx16",
    "cx8",
    "fxsr",
    "mmx",
    "popcnt",
    "sahf",
    "sse",
    "sse2",
    "sse3",
    "sse4.1",
    "sse4.2",
    "ssse3",
]
V3 = [*V2, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"]
V4 = [*V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"]


def set_target(monkeypatch: pytest.MonkeyPatch, name: str | None, features: str | None) -> None:
    for variable, value in ((target.NAME, name), (target.FEATURES, features)):
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)


@pytest.mark.parametrize("empty", [None, ""])
def test_features_follow_from_a_name_and_not_from_the_building_machine(
    monkeypatch: pytest.MonkeyPatch, empty: str | None
) -> None:
    set_target(monkeypatch, "x86-64-v2", empty)
    assert target.asked() == target.target() == ("x86-64-v2", "")
    assert target.environment()[target.FEATURES] == ""


@pytest.mark.parametrize("empty", [None, ""])
def test_without_a_name_and_features_it_is_this_cpu(
    monkeypatch: pytest.MonkeyPatch, empty: str | None
) -> None:
    set_target(monkeypatch, empty, empty)
    assert target.asked() == (None, None)
    assert target.target() == (
        binding.get_host_cpu_name(),
        binding.get_host_cpu_features().flatten(),
    )
    assert not {target.NAME, target.FEATURES} & target.environment().keys()


def test_a_compiler_gets_no_variable_of_numba_that_the_key_does_not_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    monkeypatch.setenv("NUMBA_OPT", "2")
    environment = target.environment()
    assert "NUMBA_DISABLE_JIT" not in environment and environment["NUMBA_OPT"] == "2"
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.timeout(240)
def test_the_same_key_is_the_same_code_whether_features_are_empty_or_unset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a machine with AVX-512, unset features would put its instructions into code for all of v2."""
    digests = []
    for features in (None, ""):
        set_target(monkeypatch, "x86-64-v2", features)
        (built,) = build(["finish.sum_sizes"], lambda name: None)
        digests.append(hashlib.sha256(built.code).hexdigest())
    assert digests[0] == digests[1]


PROGRAM = """
{setup}
from agent.sketch.kernels import toolchain
from numba.core import config
from numba.core.registry import cpu_target
print(config.CPU_NAME, repr(config.CPU_FEATURES), toolchain.cpu_name, repr(toolchain.cpu_features))
print(repr(cpu_target.target_context._internal_codegen._get_host_cpu_features()))
"""


@pytest.mark.parametrize("setup", ["", "import numba"])
def test_numba_in_this_process_is_told_the_same(setup: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(setup=setup)],
        env=environment | {target.NAME: "x86-64-v2"},
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout.splitlines() == ["x86-64-v2 '' x86-64-v2 ''", "''"]


# ---------------------------------------------------------------- whether this CPU can run them


@pytest.mark.parametrize(
    ("name", "needed"), [("x86-64-v2", V2), ("x86-64-v3", V3), ("x86-64-v4", V4)]
)
def test_each_feature_of_a_level_is_needed(name: str, needed: list[str]) -> None:
    host = dict.fromkeys(V4, True)
    assert target.lacking(name, "", host) == []
    for feature in V4:
        short = host | {feature: False}
        assert target.lacking(name, "", short) == ([feature] if feature in needed else [])


def test_features_that_were_asked_for_are_needed_and_those_refused_are_not() -> None:
    host = {"sse4.2": True, "avx2": False, "fma": False}
    assert target.lacking(None, "+sse4.2,+avx2,-fma", host) == ["avx2"]
    assert target.lacking(None, "+fast-variable-shuffle", host) == []
    everything_else = dict.fromkeys(V3, True) | {"avx2": False}
    assert target.lacking("x86-64-v3", "-avx2", everything_else) == []
    assert target.lacking("generic", "", {}) == []


def test_a_cpu_that_lacks_something_is_an_error_that_names_it_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = dict.fromkeys(V4, True) | {"avx2": False, "bmi2": False}
    monkeypatch.setattr(target.binding, "get_host_cpu_features", lambda: host)
    set_target(monkeypatch, "x86-64-v3", None)
    with pytest.raises(InferometerError) as caught:
        target.check_cpu()
    message = str(caught.value)
    assert "lacks avx2, bmi2" in message and "x86-64-v3" in message
    assert "--build-arg CPU_NAME=x86-64-v2" in message
    set_target(monkeypatch, "x86-64-v2", None)
    target.check_cpu()
    set_target(monkeypatch, None, None)
    target.check_cpu()


def test_a_command_refuses_kernels_of_a_cpu_that_this_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before any is compiled: code for another CPU ends the process at its first missing instruction."""
    from agent.sketch.kernels.warm import warm

    monkeypatch.setattr(target.binding, "get_host_cpu_features", lambda: {"sse2": True})
    set_target(monkeypatch, "x86-64-v3", None)
    begun: list[str] = []
    with pytest.raises(InferometerError, match="avx2"):
        warm(lambda name, n_done, n_all: begun.append(name))
    assert begun == []


# ---------------------------------------------------------------- files or numba


@pytest.mark.parametrize("value", ["nmba", "Numba", "1", " "])
def test_an_unknown_way_to_kernels_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("INFEROMETER_KERNELS", value)
    with pytest.raises(ConfigError, match=r"must be files .* or numba"):
        use_files()
