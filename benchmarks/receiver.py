"""A loopback OTLP/gRPC receiver in a process of its own: takes everything, keeps nothing.

python -m benchmarks.receiver        prints its port; ends when its standard input does
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.frame import CannotRun

_ROOT = Path(__file__).resolve().parents[1]


class Receiver:
    """The process, for a `with` block. Start it before anything here has made a gRPC channel."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.receiver"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdout is not None
        port = self._child.stdout.readline().strip()
        if not port:
            raise CannotRun(f"the receiver ended with {self._child.wait(5)}")
        self.endpoint = f"http://127.0.0.1:{port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def main() -> None:
    import grpc

    accept = grpc.unary_unary_rpc_method_handler(lambda body, context: b"")

    class Everything(grpc.GenericRpcHandler):
        def service(self, call: Any) -> Any:
            return accept

    options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(4), options=options)
    server.add_generic_rpc_handlers((Everything(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()
