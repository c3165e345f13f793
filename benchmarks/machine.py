"""What a figure was measured on: processor, versions, commit, and what else was running."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("aiokafka", "cramjam", "numpy", "numba", "orjson", "uvloop", "grpcio", "protobuf")
#: Only in the report when they are there: what is compared with.
PEERS = ("datasketches", "ddsketch", "matplotlib")

_ROOT = Path(__file__).resolve().parents[1]


def describe() -> dict[str, Any]:
    """Processor, cores allowed, memory, Python, packages, commit."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "virtual": _is_virtual(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": _versions(PACKAGES) | _versions(PEERS),
        "commit": _commit(),
    }


def cores_busy() -> Callable[[], float | None]:
    """Call what this returns later: cores that other processes kept busy in between, None if unknown."""
    began, own, system = time.monotonic(), _own_s(), _system_s()

    def until_now() -> float | None:
        elapsed = time.monotonic() - began
        now = _system_s()
        if system is None or now is None or elapsed <= 0:
            return None
        return round(max(0.0, (now - system - (_own_s() - own)) / elapsed), 2)

    return until_now


def _own_s() -> float:
    """CPU seconds of this process and its children that have ended."""
    return sum(os.times()[:4])


def _system_s() -> float | None:
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _is_virtual() -> bool | None:
    try:
        return " hypervisor " in Path("/proc/cpuinfo").read_text().replace("\n", " ")
    except OSError:
        return None


def _commit() -> str:
    """The commit, `+` behind it when agent/ or benchmarks/ have been changed since."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", "agent", "benchmarks")
    except OSError:
        return "unknown"
    return (commit or "unknown") + ("+" if commit and changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
