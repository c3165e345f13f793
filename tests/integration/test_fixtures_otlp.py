"""The OTLP receiver hears both transports and answers as it is told."""

import asyncio
import gzip
import ssl
import time
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

from tests.support.certificates import Authority
from tests.support.otlp_points import CUMULATIVE, DELTA
from tests.support.otlp_receiver import (
    ACCEPT,
    SILENCE,
    Answer,
    OtlpReceiver,
    black_hole,
    overloaded,
    partial,
    permanent,
    transient,
)
from tests.support.wait import eventually

METHOD = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
PROTOBUF = {"Content-Type": "application/x-protobuf"}


def _request(
    value: int, *, time_ns: int = 2, start_ns: int = 1, temporality: int = CUMULATIVE, **labels: str
) -> Any:
    request = metrics.ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="rows", unit="1")
    metric.sum.aggregation_temporality = temporality
    metric.sum.is_monotonic = True
    point = metric.sum.data_points.add(
        as_int=value, time_unix_nano=time_ns, start_time_unix_nano=start_ns
    )
    for key, text in labels.items():
        point.attributes.add(key=key).value.string_value = text
    return request


async def _grpc_export(
    receiver: OtlpReceiver,
    body: bytes,
    *,
    within_s: float = 10,
    credentials: grpc.ChannelCredentials | None = None,
    **options: Any,
) -> bytes:
    address = f"127.0.0.1:{receiver.grpc_port}"
    channel = (
        grpc.aio.insecure_channel(address)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials)
    )
    async with channel:
        return await channel.unary_unary(METHOD)(body, timeout=within_s, **options)


async def _http_export(
    receiver: OtlpReceiver, body: bytes, *, tls: Any = True, within_s: float = 10, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    async with aiohttp.ClientSession() as session:
        response = await session.post(
            f"{receiver.http_endpoint}/v1/metrics",
            data=body,
            headers=PROTOBUF | headers,
            ssl=tls,
            timeout=aiohttp.ClientTimeout(total=within_s),
        )
        return response.status, dict(response.headers), await response.read()


async def test_both_transports_are_decoded_and_kept_with_their_headers(
    otlp_receiver: OtlpReceiver,
) -> None:
    body = _request(3, model="a").SerializeToString()
    await _grpc_export(
        otlp_receiver, body, metadata=(("x-tenant", "one"),), compression=grpc.Compression.Gzip
    )
    status, _, _ = await _http_export(otlp_receiver, body, **{"X-Tenant": "two"})
    assert status == 200
    packed = gzip.compress(body)
    assert (await _http_export(otlp_receiver, packed, **{"Content-Encoding": "gzip"}))[0] == 200
    heard = [(r.transport, r.headers.get("x-tenant")) for r in otlp_receiver.requests]
    assert heard == [("grpc", "one"), ("http", "two"), ("http", None)]
    assert {r.size_bytes for r in otlp_receiver.requests} == {len(body)}
    assert [p.value for p in otlp_receiver.sums("rows", model="a")] == [3, 3, 3]


async def test_spans_arrive_on_their_own_path(otlp_receiver: OtlpReceiver) -> None:
    request = traces.ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(name="cut")
    async with aiohttp.ClientSession() as session:
        url = f"{otlp_receiver.http_endpoint}/v1/traces"
        response = await session.post(url, data=request.SerializeToString(), headers=PROTOBUF)
        assert response.status == 200
    assert [span.name for span in otlp_receiver.spans("cut")] == ["cut"]
    assert otlp_receiver.points() == []


@pytest.mark.parametrize(
    ("answer", "code", "status", "retry_after"),
    [
        (transient(), grpc.StatusCode.UNAVAILABLE, 503, None),
        (transient(2), grpc.StatusCode.UNAVAILABLE, 503, "2"),
        (overloaded(0.25), grpc.StatusCode.RESOURCE_EXHAUSTED, 429, "0.25"),
        (permanent("no"), grpc.StatusCode.INVALID_ARGUMENT, 400, None),
    ],
)
async def test_refusal_has_the_code_of_its_transport_and_is_not_counted(
    otlp_receiver: OtlpReceiver,
    answer: Answer,
    code: grpc.StatusCode,
    status: int,
    retry_after: str | None,
) -> None:
    otlp_receiver.always(answer)
    body = _request(1).SerializeToString()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _grpc_export(otlp_receiver, body)
    assert (refused.value.code(), refused.value.details()) == (code, answer.message)
    trailing = dict(refused.value.trailing_metadata())
    assert ("grpc-status-details-bin" in trailing) == (retry_after is not None)
    got_status, headers, content = await _http_export(otlp_receiver, body)
    assert (got_status, headers.get("Retry-After")) == (status, retry_after)
    assert answer.message.encode() in content
    assert len(otlp_receiver.requests) == 2
    assert otlp_receiver.points() == []


async def test_retry_info_is_a_google_rpc_status_with_a_duration(
    otlp_receiver: OtlpReceiver,
) -> None:
    otlp_receiver.always(overloaded(1.5))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _grpc_export(otlp_receiver, b"")
    details = dict(refused.value.trailing_metadata())["grpc-status-details-bin"]
    # Written out by hand from the definitions of google.rpc.Status, Any, RetryInfo and Duration.
    info = b"\x0a\x08" + b"\x08\x01\x10" + bytes([0x80, 0xCA, 0xB5, 0xEE, 0x01])
    name = b"type.googleapis.com/google.rpc.RetryInfo"
    detail = b"\x0a" + bytes([len(name)]) + name + b"\x12" + bytes([len(info)]) + info
    expected = b"\x08\x08" + b"\x12\x08too much" + b"\x1a" + bytes([len(detail)]) + detail
    assert details == expected


async def test_partial_success_says_how_many_were_refused(otlp_receiver: OtlpReceiver) -> None:
    otlp_receiver.always(partial(2, "late"))
    body = _request(1).SerializeToString()
    over_grpc = await _grpc_export(otlp_receiver, body)
    _, _, over_http = await _http_export(otlp_receiver, body)
    for content in (over_grpc, over_http):
        response = metrics.ExportMetricsServiceResponse.FromString(content)
        assert response.partial_success.rejected_data_points == 2
        assert response.partial_success.error_message == "late"


async def test_scripts_of_answers_are_followed_in_order(otlp_receiver: OtlpReceiver) -> None:
    body = _request(1).SerializeToString()

    async def statuses(count: int) -> list[int]:
        return [(await _http_export(otlp_receiver, body))[0] for _ in range(count)]

    otlp_receiver.first(transient(), permanent())
    assert await statuses(3) == [503, 400, 200]
    otlp_receiver.flapping(transient(), ACCEPT)
    assert await statuses(4) == [503, 200, 503, 200]
    otlp_receiver.behave(lambda r: permanent() if r.size_bytes == len(body) else ACCEPT)
    assert await statuses(1) == [400]


async def test_silence_lasts_until_the_client_gives_up(otlp_receiver: OtlpReceiver) -> None:
    otlp_receiver.always(SILENCE)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _grpc_export(otlp_receiver, b"", within_s=0.3)
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(TimeoutError):
        await _http_export(otlp_receiver, b"", within_s=0.3)
    with black_hole() as port, pytest.raises(TimeoutError):
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.3)) as session:
            await session.post(f"http://127.0.0.1:{port}/v1/metrics", data=b"")


async def test_stop_cuts_a_silent_request_off_at_once(otlp_receiver: OtlpReceiver) -> None:
    otlp_receiver.always(SILENCE)
    waiting = asyncio.create_task(_http_export(otlp_receiver, b"", within_s=30))
    await eventually(lambda: otlp_receiver.requests)
    began = time.monotonic()
    await asyncio.to_thread(otlp_receiver.stop)
    with pytest.raises(aiohttp.ClientError):
        await waiting
    assert time.monotonic() - began < 5


async def test_message_over_the_limit_is_refused_as_the_collector_does(
    otlp_receiver: OtlpReceiver,
) -> None:
    body = _request(1, text="x" * otlp_receiver.max_grpc_bytes).SerializeToString()
    for compression in (None, grpc.Compression.Gzip):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await _grpc_export(otlp_receiver, body, compression=compression)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with OtlpReceiver(max_http_bytes=len(body) - 1) as small:
        assert (await _http_export(small, body))[0] == 400
    assert otlp_receiver.requests == []


async def test_bytes_that_are_not_otlp_are_refused_and_noted(otlp_receiver: OtlpReceiver) -> None:
    assert (await _http_export(otlp_receiver, b"\xff\xff"))[0] == 400
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _grpc_export(otlp_receiver, b"\xff\xff")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(otlp_receiver.malformed) == 2


async def test_receiver_that_went_away_comes_back_on_the_same_ports(
    otlp_receiver: OtlpReceiver,
) -> None:
    ports = (otlp_receiver.grpc_port, otlp_receiver.http_port)
    body = _request(1).SerializeToString()
    await _http_export(otlp_receiver, body)
    await asyncio.to_thread(otlp_receiver.stop)
    with pytest.raises(aiohttp.ClientConnectorError):
        await _http_export(otlp_receiver, body)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _grpc_export(otlp_receiver, body)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    otlp_receiver.start()
    assert (otlp_receiver.grpc_port, otlp_receiver.http_port) == ports
    await _http_export(otlp_receiver, body)
    # Channels of one process share the refused connection and its pause of about a second.
    await _grpc_export(otlp_receiver, body, wait_for_ready=True)
    assert len(otlp_receiver.accepted) == 3


async def test_tls_ports_want_trust_and_the_client_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, client = authority.issue("server"), authority.issue("client")
    body = _request(1).SerializeToString()
    known = ssl.create_default_context(cafile=authority.path)
    known.load_cert_chain(client.certificate_path, client.key_path)
    with OtlpReceiver(tls=server, client_ca_pem=authority.pem) as receiver:
        assert receiver.http_endpoint.startswith("https://")
        assert (await _http_export(receiver, body, tls=known))[0] == 200
        credentials = grpc.ssl_channel_credentials(
            authority.pem.encode(), client.key_pem.encode(), client.certificate_pem.encode()
        )
        await _grpc_export(receiver, body, credentials=credentials)
        anonymous = ssl.create_default_context(cafile=authority.path)
        with pytest.raises(aiohttp.ClientError):
            await _http_export(receiver, body, tls=anonymous)
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await _http_export(receiver, body, tls=ssl.create_default_context())
        with pytest.raises(grpc.aio.AioRpcError):
            await _grpc_export(
                receiver, body, credentials=grpc.ssl_channel_credentials(authority.pem.encode())
            )
        assert len(receiver.requests) == 2


async def test_totals_follow_restarts_and_deltas(otlp_receiver: OtlpReceiver) -> None:
    async def sent(request: Any) -> None:
        await _grpc_export(otlp_receiver, request.SerializeToString())

    await sent(_request(5, start_ns=1, time_ns=2, model="a"))
    await sent(_request(9, start_ns=1, time_ns=3, model="a"))
    await sent(_request(4, start_ns=5, time_ns=6, model="a"))  # restarted
    await sent(_request(7, start_ns=1, time_ns=2, model="b"))
    assert otlp_receiver.points("rows", model="a").total() == 13
    assert otlp_receiver.points("rows").total() == 20
    assert otlp_receiver.latest("rows", model="a").value == 4
    with pytest.raises(AssertionError, match="2 series"):
        otlp_receiver.latest("rows")
    otlp_receiver.clear()
    await sent(_request(5, temporality=DELTA))
    await sent(_request(6, temporality=DELTA, start_ns=2, time_ns=3))
    assert otlp_receiver.points("rows").total() == 11
