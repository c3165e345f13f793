"""What both transports owe beside delivery: TLS, headers, compression, and silence about secrets."""

import asyncio
import email.utils
import gzip
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from agent.config import Export, Otlp, Secret, Service, Tls
from agent.emit.environment import resolve
from agent.emit.otlp_metrics import MetricEncoder
from agent.emit.resource import make_resource
from agent.emit.transport import Accepted, OtlpClient, OtlpTransport, UncertainExportError
from agent.emit.transport_grpc import GrpcClient, retry_delay_s
from agent.emit.transport_http import HttpClient
from agent.errors import PermanentExportError, TransientExportError
from agent.types import Metric, NumberPoint
from tests.support.certificates import Authority
from tests.support.otlp_answers import ACCEPT, SILENCE, Answer, encoded_status, overloaded
from tests.support.otlp_receiver import OtlpReceiver, Received
from tests.support.wait import eventually

RESOURCE = make_resource(Service(), {})
BODY = (
    MetricEncoder(RESOURCE.encoded, RESOURCE.scope, max_bytes=10_000)
    .encode([Metric("inference.rows", [NumberPoint((("inference.model.name", "m"),), 1, 1, 2)])])
    .bodies[0]
    .data
)
SECRET = "s3cr3t-t0ken"


@pytest.fixture(params=("grpc", "http/protobuf"))
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as started:
        yield started


def client(receiver: OtlpReceiver | str, protocol: str, **otlp: Any) -> OtlpTransport:
    if isinstance(receiver, OtlpReceiver):
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    else:
        endpoint = receiver
    given = Otlp(endpoint=endpoint, protocol=protocol, timeout_s=10.0, **otlp)  # type: ignore[arg-type]
    return OtlpClient(resolve(Export(otlp=given), {}).metrics)


# ---------------------------------------------------------------- TLS


async def test_a_custom_authority_and_a_client_certificate_are_used(
    protocol: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    server, mine = authority.issue("server"), authority.issue("agent")
    tls = Tls(
        ca_file=str(authority.path),
        cert_file=str(mine.certificate_path),
        key_file=str(mine.key_path),
    )
    with OtlpReceiver(tls=server, client_ca_pem=authority.pem) as receiver:
        sender = client(receiver, protocol, tls=tls)
        assert await sender.send(BODY) == Accepted()
        await sender.close()
        assert len(receiver.points()) == 1
        without = client(receiver, protocol, tls=Tls(ca_file=str(authority.path)))
        with pytest.raises(TransientExportError):
            await without.send(BODY)
        await without.close()


@pytest.mark.parametrize("case", ["unknown authority", "other host", "expired"])
async def test_a_server_that_cannot_prove_itself_gets_nothing(
    protocol: str, tmp_path: Path, case: str
) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue(
        "server",
        hosts=("elsewhere.example",) if case == "other host" else ("127.0.0.1",),
        expired=case == "expired",
    )
    trusted = Authority(tmp_path, "other") if case == "unknown authority" else authority
    with OtlpReceiver(tls=pair) as receiver:
        sender = client(receiver, protocol, tls=Tls(ca_file=str(trusted.path)))
        with pytest.raises(TransientExportError):
            await sender.send(BODY)
        await sender.close()
        assert not receiver.requests


async def test_the_check_of_the_host_can_be_turned_off_over_http(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with OtlpReceiver(tls=authority.issue("server", hosts=("elsewhere.example",))) as receiver:
        tls = Tls(ca_file=str(authority.path), check_hostname=False)
        sender = client(receiver, "http/protobuf", tls=tls)
        assert await sender.send(BODY) == Accepted()
        await sender.close()


async def test_certificates_that_cannot_be_read_are_named_and_tried_again(
    protocol: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    late = tmp_path / "late.pem"
    with OtlpReceiver(tls=authority.issue("server")) as receiver:
        sender = client(receiver, protocol, tls=Tls(ca_file=str(late)))
        with pytest.raises(TransientExportError, match=r"export\.otlp\.tls"):
            await sender.send(BODY)
        late.write_text(authority.pem)
        assert await sender.send(BODY) == Accepted()
        await sender.close()


# ---------------------------------------------------------------- headers


async def test_headers_of_config_and_file_are_sent(
    receiver: OtlpReceiver, protocol: str, tmp_path: Path
) -> None:
    file = tmp_path / "headers"
    file.write_text(f"# comment\n\nAuthorization: Bearer {SECRET}\nx-both:  file \n")
    sender = client(
        receiver,
        protocol,
        headers={"x-both": Secret("config"), "X-Tenant": Secret("t1")},
        headers_file=str(file),
    )
    await sender.send(BODY)
    await sender.close()
    (request,) = receiver.requests
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert request.headers["x-tenant"] == "t1" and request.headers["x-both"] == "file"
    assert request.headers["user-agent"].startswith("inferometer/")


async def test_a_token_that_was_rotated_is_read_again_when_the_old_one_is_refused(
    receiver: OtlpReceiver, protocol: str, tmp_path: Path
) -> None:
    file = tmp_path / "headers"
    file.write_text("authorization: old")

    def behave(received: Received) -> Answer:
        if received.headers.get("authorization") == "new":
            return ACCEPT
        return Answer(grpc.StatusCode.UNAUTHENTICATED, 401, "who are you")

    receiver.behave(behave)
    sender = client(receiver, protocol, headers_file=str(file))
    with pytest.raises(PermanentExportError, match="who are you"):
        await sender.send(BODY)
    assert len(receiver.requests) == 1, "the same token is not tried twice"
    file.write_text("authorization: new")
    assert await sender.send(BODY) == Accepted()
    assert [r.headers["authorization"] for r in receiver.requests] == ["old", "old", "new"]
    await sender.close()


async def test_a_headers_file_that_is_missing_is_waited_for(
    receiver: OtlpReceiver, protocol: str, tmp_path: Path
) -> None:
    file = tmp_path / "headers"
    sender = client(receiver, protocol, headers_file=str(file))
    with pytest.raises(TransientExportError, match="cannot be read"):
        await sender.send(BODY)
    file.write_text("a: b")
    assert await sender.send(BODY) == Accepted()
    await sender.close()


async def test_a_headers_file_with_a_bad_line_shows_no_value(
    receiver: OtlpReceiver, protocol: str, tmp_path: Path
) -> None:
    file = tmp_path / "headers"
    file.write_text(f"a: {SECRET}\x00")
    sender = client(receiver, protocol, headers_file=str(file))
    with pytest.raises(PermanentExportError) as raised:
        await sender.send(BODY)
    assert "headers_file" in str(raised.value) and SECRET not in str(raised.value)
    await sender.close()


async def test_secrets_are_in_no_message_log_or_repr(
    receiver: OtlpReceiver, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also when the receiver echoes what it was sent."""
    echo = f"token {SECRET} and Bearer {SECRET} are unknown"
    receiver.first(
        Answer(grpc.StatusCode.INVALID_ARGUMENT, 400, echo),
        Answer(grpc.StatusCode.UNAVAILABLE, 503, echo),
        Answer(grpc.StatusCode.UNAUTHENTICATED, 401, echo),
        Answer(n_rejected=1, message=echo),
    )
    sender = client(receiver, protocol, headers={"authorization": Secret(f"Bearer {SECRET}")})
    texts = [repr(sender.settings), repr(sender)]
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            with pytest.raises((PermanentExportError, TransientExportError)) as raised:
                await sender.send(BODY)
            texts += [str(raised.value), repr(raised.value)]
        accepted = await sender.send(BODY)
        assert accepted.n_rejected == 1 and "unknown" in accepted.message
        texts.append(accepted.message)
    await sender.close()
    assert receiver.requests[0].headers["authorization"] == f"Bearer {SECRET}"
    assert SECRET not in "".join(texts) + caplog.text


# ---------------------------------------------------------------- gRPC


def test_retry_info_is_found_in_a_status() -> None:
    assert retry_delay_s(encoded_status(overloaded(1.25))) == pytest.approx(1.25)
    assert retry_delay_s(encoded_status(overloaded(0.0))) == 0.0
    assert retry_delay_s(encoded_status(overloaded(None))) is None


@pytest.mark.parametrize(
    "details",
    [None, "text", b"", b"\xff", b"\x1a\xff\xff\xff\xff\x0f", b"\x1a\x02\x0a\x05", b"\x1b\x00"],
)
def test_details_that_are_not_a_status_are_no_advice(details: object) -> None:
    assert retry_delay_s(details) is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("CANCELLED", TransientExportError),
        ("DEADLINE_EXCEEDED", TransientExportError),
        ("ABORTED", TransientExportError),
        ("OUT_OF_RANGE", TransientExportError),
        ("UNAVAILABLE", TransientExportError),
        ("DATA_LOSS", TransientExportError),
        ("UNKNOWN", PermanentExportError),
        ("INVALID_ARGUMENT", PermanentExportError),
        ("NOT_FOUND", PermanentExportError),
        ("ALREADY_EXISTS", PermanentExportError),
        ("PERMISSION_DENIED", PermanentExportError),
        ("FAILED_PRECONDITION", PermanentExportError),
        ("UNIMPLEMENTED", PermanentExportError),
        ("INTERNAL", PermanentExportError),
        ("UNAUTHENTICATED", PermanentExportError),
        ("RESOURCE_EXHAUSTED", PermanentExportError),
    ],
)
async def test_grpc_codes_mean_what_otlp_says(
    receiver: OtlpReceiver, code: str, kind: type[Exception]
) -> None:
    receiver.always(Answer(grpc.StatusCode[code], 500, "no"))
    sender = client(receiver, "grpc")
    with pytest.raises(kind, match=code):
        await sender.send(BODY)
    await sender.close()


async def test_resource_exhausted_with_advice_is_transient(receiver: OtlpReceiver) -> None:
    receiver.always(overloaded(0.25))
    sender = client(receiver, "grpc")
    with pytest.raises(TransientExportError) as raised:
        await sender.send(BODY)
    assert raised.value.retry_after_s == pytest.approx(0.25)
    await sender.close()


@pytest.mark.parametrize("compression", ["gzip", "none"])
async def test_grpc_compresses_when_asked(receiver: OtlpReceiver, compression: str) -> None:
    sender = client(receiver, "grpc", compression=compression)
    await sender.send(BODY)
    await sender.close()
    assert len(receiver.points()) == 1


LARGE = (
    MetricEncoder(RESOURCE.encoded, RESOURCE.scope, max_bytes=1 << 20)
    .encode(
        [
            Metric(
                "inference.rows",
                [NumberPoint((("inference.model.name", f"m{i}"),), i, 1, 2) for i in range(2000)],
            )
        ]
    )
    .bodies[0]
    .data
)


async def test_a_large_grpc_request_is_compressed_off_the_loop(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    sender = client(receiver, "grpc")
    await sender.send(BODY)  # connects
    assert isinstance(sender, GrpcClient)
    method = sender._call
    start = method.future

    def watch(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread())
        return start(*arguments, **options)

    monkeypatch.setattr(method, "future", watch)
    await sender.send(LARGE)
    await sender.send(BODY)
    await sender.close()
    assert len(receiver.points()) == 2002
    assert threads[0] is not threading.main_thread()
    assert threads[1] is threading.main_thread(), "a small one is not worth a thread"


@pytest.mark.parametrize("body", [BODY, LARGE], ids=["small", "large"])
async def test_cancelling_a_grpc_send_cancels_its_call(receiver: OtlpReceiver, body: bytes) -> None:
    receiver.always(SILENCE)
    sender = client(receiver, "grpc")
    assert isinstance(sender, GrpcClient)
    calls: list[Any] = []
    sender._connect()
    method = sender._call

    class Watch:
        def future(self, *arguments: Any, **options: Any) -> Any:
            calls.append(method.future(*arguments, **options))
            return calls[-1]

    sender._call = Watch()
    sending = asyncio.ensure_future(sender.send(body))
    await eventually(lambda: bool(calls))
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await eventually(lambda: calls[0].done())
    assert calls[0].cancelled()
    receiver.always(ACCEPT)
    sender._call = method
    assert await sender.send(BODY) == Accepted(), "the client is usable afterwards"
    await sender.close()


# ---------------------------------------------------------------- HTTP


class Page:
    """An HTTP server of one handler, for answers that no OTLP receiver gives."""

    def __init__(self, answer: web.Response) -> None:
        self.answer = answer
        self.bodies: list[tuple[bytes, dict[str, str]]] = []
        self.port = 0

    async def _handle(self, request: web.Request) -> web.Response:
        # aiohttp's server has already undone a Content-Encoding.
        self.bodies.append(
            (await request.read(), {k.lower(): v for k, v in request.headers.items()})
        )
        return self.answer

    async def __aenter__(self) -> "Page":
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


@pytest.mark.parametrize(
    ("status", "kind", "is_uncertain"),
    [
        (400, PermanentExportError, False),
        (404, PermanentExportError, False),
        (413, PermanentExportError, False),
        (500, PermanentExportError, False),
        (501, PermanentExportError, False),
        (302, PermanentExportError, False),
        (204, PermanentExportError, False),
        (429, TransientExportError, False),
        (503, TransientExportError, False),
        (502, TransientExportError, True),
        (504, TransientExportError, True),
    ],
)
async def test_http_statuses_mean_what_otlp_says(
    status: int, kind: type[Exception], is_uncertain: bool
) -> None:
    headers = {"Location": "http://127.0.0.1:1/elsewhere"} if status == 302 else {}
    async with Page(web.Response(status=status, headers=headers)) as page:
        sender = client(f"http://127.0.0.1:{page.port}", "http/protobuf")
        with pytest.raises(kind, match=str(status)) as raised:
            await sender.send(BODY)
        assert isinstance(raised.value, UncertainExportError) == is_uncertain
        assert len(page.bodies) == 1, "a redirect is not followed: headers would go elsewhere"
        await sender.close()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("-3", 0.0),
        ("999999999", 86_400.0),
        (email.utils.formatdate(1_000_030.0, usegmt=True), 30.0),
        (email.utils.formatdate(999_000.0, usegmt=True), 0.0),
        ("soon", None),
        ("nan", None),
        ("", None),
    ],
)
async def test_retry_after_is_seconds_or_a_date(given: str, expected: float | None) -> None:
    async with Page(web.Response(status=503, headers={"Retry-After": given})) as page:
        settings = client(f"http://127.0.0.1:{page.port}", "http/protobuf").settings
        sender = HttpClient(settings, wall_clock=lambda: 1_000_000.0)
        with pytest.raises(TransientExportError) as raised:
            await sender.send(BODY)
        assert raised.value.retry_after_s == expected
        await sender.close()


async def test_an_endless_answer_is_cut_and_one_that_is_no_protobuf_is_a_success() -> None:
    async with Page(web.Response(body=b"\xff" * 5_000_000)) as page:
        sender = client(f"http://127.0.0.1:{page.port}", "http/protobuf")
        assert await sender.send(BODY) == Accepted()
        await sender.close()


async def test_rejected_counts_that_are_negative_are_no_points() -> None:
    answer = ExportMetricsServiceResponse()
    answer.partial_success.rejected_data_points = -5
    async with Page(web.Response(body=answer.SerializeToString())) as page:
        sender = client(f"http://127.0.0.1:{page.port}", "http/protobuf")
        assert (await sender.send(BODY)).n_rejected == 0
        await sender.close()


@pytest.mark.parametrize("compression", ["gzip", "none"])
@pytest.mark.parametrize("copies", [1, 400])
async def test_a_body_over_http_says_what_it_is(compression: str, copies: int) -> None:
    async with Page(web.Response()) as page:
        sender = client(
            f"http://127.0.0.1:{page.port}/base?key=v", "http/protobuf", compression=compression
        )
        body = BODY * copies  # concatenated messages are one message
        await sender.send(body)
        await sender.close()
        (received, headers) = page.bodies[0]
        assert headers["content-type"] == "application/x-protobuf"
        assert headers.get("content-encoding") == (None if compression == "none" else "gzip")
        if received[:2] == b"\x1f\x8b":
            received = gzip.decompress(received)
        assert received == body
        assert len(ExportMetricsServiceRequest.FromString(received).resource_metrics) == copies


async def test_a_server_that_hangs_up_leaves_the_matter_uncertain() -> None:
    import asyncio

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sender = client(f"http://127.0.0.1:{port}", "http/protobuf")
    with pytest.raises(UncertainExportError, match="broke off"):
        await sender.send(BODY)
    await sender.close()
    server.close()
    await server.wait_closed()


async def test_a_port_where_nobody_listens_is_certain(protocol: str) -> None:
    with OtlpReceiver() as gone:
        endpoint = gone.grpc_endpoint if protocol == "grpc" else gone.http_endpoint
    sender = client(endpoint, protocol)
    with pytest.raises(TransientExportError) as raised:
        await sender.send(BODY)
    assert not isinstance(raised.value, UncertainExportError)
    await sender.close()
