"""The demo as a program: verdict, exit status, and nothing left behind; with a stand-in agent."""

import json
import os
import pty
import signal
import subprocess
import sys
import time

import pyte
import pytest

from tests.support import marked
from tests.support.wait import eventually_sync

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="finds left-over processes through /proc"
)


def command(mode, *arguments):
    return [sys.executable, "-m", "tests.support.demo_with_fake_agent", mode, *arguments]


def run(mode, *arguments, timeout_s=90):
    environment = marked.mark()
    done = subprocess.run(
        command(mode, *arguments), env=environment, capture_output=True, timeout=timeout_s
    )
    eventually_sync(lambda: not marked.processes(environment), timeout_s=5)
    return done


def test_headless_json_is_one_document_with_equal_counts_and_caught_breaks():
    done = run("right", "--duration", "10", "--json")
    assert done.returncode == 0, done.stderr.decode()
    body = json.loads(done.stdout)
    assert list(body)[:6] == ["produced", "counted", "labels", "streams", "injected", "caught"]
    assert list(body)[6:] == ["canary", "verdicts", "actions"]
    assert body["produced"] == body["counted"] > 20_000
    assert [each["what"] for each in body["caught"]] == [each["what"] for each in body["injected"]]
    assert all(0 < each["after_s"] < 5 for each in body["caught"])
    assert [v["monitor"] for v in body["verdicts"]] == ["contract", "distance", "canary"]
    assert [a["action"] for a in body["actions"]] == ["rollback"]
    assert 0 < body["canary"]["after_s"] <= body["canary"]["rolled_back_s"]


def test_rows_that_the_agent_missed_are_a_failure_that_names_both_counts():
    done = run("forgetful", "--duration", "6", "--headless")
    assert done.returncode == 1
    assert b"NOT EQUAL" in done.stdout
    assert b"inferences, but counted" in done.stderr


def test_an_agent_that_dies_ends_the_demo_with_its_last_words():
    done = run("crash", "--duration", "6", "--headless")
    assert done.returncode == 1
    assert b"the agent ended with status 3" in done.stderr
    assert b"cannot go on: the disk is full" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_ends_a_headless_demo_and_all_its_processes(number, status):
    environment = marked.mark()
    demo = subprocess.Popen(
        command("right", "--duration", "60", "--headless"),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        eventually_sync(lambda: "model_server" in str(marked.processes(environment)))
        demo.send_signal(number)
        out, errors = demo.communicate(timeout=30)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == status
    assert b"Traceback" not in out + errors
    eventually_sync(lambda: not marked.processes(environment), timeout_s=5)


def test_children_end_when_the_demo_is_killed(tmp_path):
    environment = marked.mark() | {"TMPDIR": str(tmp_path)}
    demo = subprocess.Popen(
        command("right", "--duration", "60", "--headless"),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually_sync(lambda: "model_server" in str(marked.processes(environment)))
        eventually_sync(lambda: "fake_agent" in str(marked.processes(environment)))
    finally:
        demo.kill()
        demo.wait()
    eventually_sync(
        lambda: (
            not any(
                "model_server" in line or "fake_agent" in line
                for line in marked.processes(environment).values()
                if not line.startswith("sh ")
            )
        ),
        timeout_s=20,
    )
    for watchdog in marked.processes(environment):
        os.kill(watchdog, signal.SIGKILL)  # asleep before its second, harder try


class Terminal:
    """A program on a pseudo-terminal of 80x24, and what a viewer sees of it."""

    def __init__(self, arguments, environment):
        self.screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execvpe(arguments[0], arguments, environment | {"TERM": "xterm-256color"})
        os.set_blocking(self._fd, False)
        self.status = None

    def text(self):
        """Take in what has been written so far; the screen as text."""
        try:
            while chunk := os.read(self._fd, 65536):
                self.raw += chunk
                self._stream.feed(chunk)
        except OSError:
            pass  # nothing to read now, or the other side is closed
        return "\n".join(self.screen.display)

    def type(self, keys):
        os.write(self._fd, keys)

    def ended(self):
        self.text()
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def close(self):
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)


def test_ctrl_c_leaves_the_live_view_cleanly():
    environment = marked.mark() | {"COLUMNS": "80", "LINES": "24", "PYTHONUTF8": "1"}
    terminal = Terminal(command("right", "--duration", "60"), environment)
    try:
        eventually_sync(lambda: "origin JFK" in terminal.text(), timeout_s=40)
        eventually_sync(lambda: "no alarm so far" in terminal.text())
        assert "distance" in terminal.text()
        pressed = time.monotonic()
        terminal.type(b"\x03")
        eventually_sync(terminal.ended, timeout_s=30)
        assert time.monotonic() - pressed < 20
        assert terminal.status == 0
        assert b"Traceback" not in terminal.raw
        assert b"stopped; all its processes have ended" in terminal.raw
        assert b"\x1b[?25h" in terminal.raw  # the cursor is back
        assert b"\x1b[?1049l" in terminal.raw  # and so is the screen from before
        eventually_sync(lambda: not marked.processes(environment), timeout_s=5)
    finally:
        terminal.close()
