"""The image without a container engine: its build steps, then the agent as the container starts it."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent import __version__
from tests.packaging.dockerfile import Emulation
from tests.support.built import REPOSITORY
from tests.support.process import OwnedProcess, free_ports
from tests.support.real import unavailable

DOCKERFILE = REPOSITORY / "Dockerfile"
BUILD_TIMEOUT_S = 600.0
#: The aim is 2 s with warmed kernels, and is printed; the bound is for a machine busy with other things.
LIVE_WITHIN_S = 30.0


def emulation(root: Path, path: Path) -> Emulation:
    architecture = {"aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "amd64")
    return Emulation(DOCKERFILE, REPOSITORY, root, path, architecture=architecture)


@dataclass
class Image:
    """What the build left, made read-only."""

    steps: Emulation
    root: Path

    @property
    def kernels(self) -> Path:
        return self.root / "opt/inferometer/kernels"

    def command(self, *arguments: str | Path) -> list[str]:
        """The image's entry point. Root loses the right to write read-only files, as in a read-only image."""
        drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
        prefix = drop if os.geteuid() == 0 else []
        return [*prefix, str(self.root / "opt/inferometer/bin/inferometer"), *map(str, arguments)]

    def environment(self, tmp: Path) -> dict[str, str]:
        env = self.steps.environment("runtime")
        path = f"{self.root}/opt/inferometer/bin:/usr/local/bin:/usr/bin:/bin"
        return env | {"TMPDIR": str(tmp), "HOME": "/nonexistent", "PATH": path}

    def files(self) -> set[tuple[str, int, float]]:
        found = set()
        for path in (self.root / "opt/inferometer").rglob("*"):
            stat = path.lstat()
            found.add((str(path), stat.st_size, stat.st_mtime))
        return found


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        unavailable("install util-linux (setpriv), or run as another user than root")
    root = Path(tempfile.mkdtemp(prefix="inferometer-image-"))
    try:
        python = root / "python"
        subprocess.run([sys.executable, "-m", "venv", python], check=True, timeout=120)
        steps = emulation(root, python / "bin")
        steps.build("build", timeout_s=BUILD_TIMEOUT_S)
        installed = root / "opt/inferometer"
        subprocess.run(["chmod", "-R", "a-w", installed], check=True, timeout=60)
        os.sync()  # what the build wrote must not stall the disk while the start is timed
        yield Image(steps, root)
        subprocess.run(["chmod", "-R", "u+w", installed], check=True, timeout=60)
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.timeout(BUILD_TIMEOUT_S + 120)
def test_build_steps_leave_whole_second_sources_and_warm_kernels(image: Image) -> None:
    """Layers keep whole seconds."""
    sources = list(image.root.glob("opt/inferometer/lib/python3*/site-packages/agent/**/*.py"))
    assert len(sources) > 20
    assert [s for s in sources if s.stat().st_mtime % 1 != 0] == []
    assert len(list(image.kernels.rglob("*.o"))) > 5


@pytest.mark.timeout(BUILD_TIMEOUT_S + 120)
def test_nothing_of_the_build_is_in_the_image(image: Image) -> None:
    packages = {
        p.name.lower() for p in image.root.glob("opt/inferometer/lib/python3*/site-packages/*")
    }
    for name in ("pip", "setuptools", "hatchling", "pytest", "sklearn"):
        assert name not in packages
    assert not (image.root / "opt/inferometer/bin/pip").exists()


@pytest.mark.timeout(BUILD_TIMEOUT_S + 120)
def test_the_agent_lives_with_a_read_only_package_and_no_broker(
    image: Image, tmp_path: Path
) -> None:
    web_port, no_broker = free_ports(2)
    config = tmp_path / "inferometer.yaml"
    shutil.copy(REPOSITORY / "deploy/inferometer.yaml", config)
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    env = image.environment(tmp) | {
        "INFEROMETER__KAFKA__BOOTSTRAP_SERVERS": f"[127.0.0.1:{no_broker}]",
        "INFEROMETER__KAFKA__TOPICS": "[predictions]",
        "INFEROMETER__WEB__PORT": str(web_port),
    }
    before = image.files()
    arguments = image.steps.stages["runtime"].last("CMD").exec_form
    assert arguments == ["run", "-c", "/etc/inferometer/inferometer.yaml"]
    began = time.monotonic()
    agent = OwnedProcess(
        image.command("run", "-c", config), log_path=tmp_path / "log", cwd=tmp, env=env
    )
    try:
        agent.wait_ready(lambda: _get(web_port, "/livez")[0] == 200, timeout_s=LIVE_WITHIN_S)
        live_after_s = time.monotonic() - began
        print(f"/livez answered after {live_after_s:.2f} s")
        status, body = _get(web_port, "/readyz")
        assert status == 503 and json.loads(body)["reasons"]
        health = subprocess.run(
            image.command("health", "-c", config),
            env=env, cwd=tmp, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert health.returncode == 0, health.stderr
        status_code = agent.terminate(timeout_s=40.0)
        assert status_code == 0, agent.log_tail()
    finally:
        if agent.running:
            agent.kill()
    log = agent.log_path.read_text()
    assert "kernels warm after" in log
    assert "compiling kernel" not in log and "compiled at every start" not in log
    assert image.files() == before


@pytest.mark.timeout(BUILD_TIMEOUT_S + 120)
def test_the_version_label_is_the_version(image: Image) -> None:
    version = subprocess.run(
        image.command("--version"), capture_output=True, text=True, timeout=30, check=True
    )
    assert version.stdout == f"inferometer {__version__}\n"
    assert f"ARG VERSION={__version__}\n" in DOCKERFILE.read_text()


def _get(port: int, page: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=5) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b""


# ------------------------------------------------ what the file says


def runtime() -> tuple[Emulation, dict[str, str]]:
    steps = emulation(Path("/image"), Path("/image/bin"))
    return steps, {i.word: i.text for i in steps.stages["runtime"].instructions}


def test_the_container_is_not_root_and_needs_no_shell() -> None:
    steps, said = runtime()
    user, group = said["USER"].split(":")
    assert int(user) >= 1000 and int(group) >= 1000
    stage = steps.stages["runtime"]
    assert stage.last("ENTRYPOINT").exec_form == ["inferometer"]
    assert stage.last("CMD").exec_form[0] == "run"
    assert stage.last("HEALTHCHECK").exec_form[:2] == ["inferometer", "health"]
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert "RUN" not in said


def test_kernels_are_built_and_run_under_the_same_cpu_and_path() -> None:
    steps, _ = runtime()
    built, run = steps.environment("build"), steps.environment("runtime")
    for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "INFEROMETER_KERNEL_CACHE"):
        assert built[name] == run[name]
    assert steps.environment("target-amd64")["NUMBA_CPU_NAME"] == "x86-64-v3"
    assert steps.environment("target-arm64")["NUMBA_CPU_NAME"] == "generic"


def test_everything_that_is_copied_reaches_the_build() -> None:
    """`.dockerignore` shuts everything out but what is named there."""
    allowed = {
        line[1:]
        for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
        if line[:1] == "!"
    }
    steps, _ = runtime()
    copied = {
        source
        for stage in steps.stages.values()
        for instruction in stage.instructions
        if instruction.word == "COPY" and not instruction.text.startswith("--from")
        for source in instruction.text.split()[:-1]
    }
    assert copied == allowed
    assert all((REPOSITORY / source).exists() for source in copied)
