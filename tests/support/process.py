"""A child process that cannot outlive the test run, and free ports for it.

Invariants
1. The child leads a process group of its own; every end of it is sent to that group.
2. A watchdog (`sh`, asleep on a pipe) kills the group when this process ends in any way,
   `os._exit` by pytest-timeout and SIGKILL included.
3. The watchdog is gone before the child's id can be given to another process.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class StartFailed(RuntimeError):
    """The process ended, or was not ready in time; the message holds the tail of its log."""


class OwnedProcess:
    """Start `command` with both outputs appended to `log_path`; end it with `terminate` or `kill`."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log_path: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = Path(command[0]).name
        self.log_path = log_path
        with log_path.open("ab") as log:
            self._child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=None if env is None else dict(env),
                start_new_session=True,
            )
        self._watchdog = subprocess.Popen(
            ["sh", "-c", 'cat >/dev/null; kill -9 "-$0"', str(self._child.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def log_tail(self, n_lines: int = 40) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-n_lines:])

    def wait_ready(self, probe: Callable[[], bool], *, timeout_s: float) -> None:
        """Poll `probe` until it is true; end the process and raise StartFailed otherwise."""
        deadline = time.monotonic() + timeout_s
        while not probe():
            if not self.running:
                code = self._child.returncode
                self.kill()
                raise StartFailed(f"{self.name} ended with {code}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise StartFailed(f"{self.name} not ready in {timeout_s} s:\n{self.log_tail()}")
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        """Send a signal to the whole group, for instance SIGSTOP and SIGCONT."""
        if self.running:
            os.killpg(self.pid, number)

    def terminate(self, *, timeout_s: float = 20.0) -> int:
        """SIGTERM, then SIGKILL after `timeout_s`; return the exit code."""
        self.signal(signal.SIGTERM)
        try:
            self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
        return self._reap()

    def kill(self) -> int:
        """SIGKILL, as a crash of the machine would; return the exit code."""
        self.signal(signal.SIGKILL)
        return self._reap()

    def _reap(self) -> int:
        code = self._child.wait(10.0)
        # Invariant 3: killed, not closed; a closed pipe would make it fire.
        self._watchdog.kill()
        self._watchdog.wait(10.0)
        if self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
        return code


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that were free a moment ago. Another process may win them: retry the start then."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((host, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def accepts_connections(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0
