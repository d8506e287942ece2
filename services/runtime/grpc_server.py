"""The gRPC server of every service: mutual TLS, limits, errors, health, reflection, drain.

    server = GrpcServer("127.0.0.1:7443", tls)
    add_IntakeServiceServicer_to_server(servicer, server.grpc)
    port = await server.start("claimledger.intake.v1.IntakeService")
    …
    await server.drain(10)

Handlers raise `runtime.errors.RpcError`; the interceptor answers with the rich status. Other exceptions are logged by
type and answered INTERNAL without their text. CancelledError passes.
"""

import asyncio
import contextlib
import functools
import inspect
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from runtime.errors import DeadlineTooShortError, ResourceExhaustedError, RpcError, code_of, status_of
from runtime.log import get_logger
from runtime.metrics import RPC_SECONDS, RPCS
from runtime.pki import TlsFiles

MAX_RECEIVE_BYTES: Final = 16 * 1024 * 1024
SHORTEST_DEADLINE_S: Final = 0.005
LONGEST_STALL_S: Final = 60.0
"""For so long a stream waits for its reader to take an answer; then it ends, and what it holds is free."""
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_concurrent_streams", 200),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
    ("grpc.server_handshake_timeout_ms", 3_000),
    ("grpc.so_reuseport", 0),
)


_TELLING: Final[set["asyncio.Task[None]"]] = set()
"""Statuses on their way to readers who take nothing; each ends with its connection at the latest."""


class GrpcServer:
    """A grpc.aio server behind mutual TLS. Add servicers to `.grpc` before `start`."""

    def __init__(self, address: str, tls: TlsFiles, *, extra_options: tuple[tuple[str, Any], ...] = ()) -> None:
        self.address = address
        self._tls = tls
        options = {**dict(_OPTIONS), **dict(extra_options)}
        self.grpc = grpc.aio.server(interceptors=[ErrorInterceptor()], options=list(options.items()))
        self.health = health.aio.HealthServicer()
        self._services: tuple[str, ...] = ()

    async def start(self, *services: str) -> int:
        """Listens and returns the port. `services` are full names, for health and reflection.

        Raises OSError naming the address where it is busy, KeyFileError for an exposed key.
        """
        self._services = services
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.grpc)
        reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), self.grpc)
        key, chain, root = self._tls.read()
        credentials = grpc.ssl_server_credentials([(key, chain)], root_certificates=root, require_client_auth=True)
        try:
            port = self.grpc.add_secure_port(self.address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self.address}: is another process using the port?") from error
        await self.grpc.start()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        return int(port)

    async def drain(self, grace_s: float) -> None:
        """Tells health checkers first, then refuses new RPCs and lets running ones end within `grace_s`."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self.grpc.stop(grace_s)

    async def _set_health(self, status: Any) -> None:
        for service in ("", *self._services):
            await self.health.set(service, status)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Counts and times RPCs, turns errors into statuses, refuses RPCs with no time left."""

    async def intercept_service(self, continuation: Callable[..., Any], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        method = details.method
        if handler.response_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else (grpc.unary_stream_rpc_method_handler)
            )
            behaviour = _guard_stream(method, handler.stream_stream or handler.unary_stream)
        else:
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else (grpc.unary_unary_rpc_method_handler)
            )
            behaviour = _guard_unary(method, handler.stream_unary or handler.unary_unary)
        return make(behaviour, handler.request_deserializer, handler.response_serializer)


def _guard_unary(method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(inner)
    async def call(request: Any, context: Any) -> Any:
        began = time.perf_counter()
        try:
            _check_deadline(context)
            result = await inner(request, context)
        except Exception as error:  # noqa: BLE001 - the border: every error becomes a status
            await _abort(method, context, error)
        _count(method, "OK", began)
        return result

    return call


def _guard_stream(method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    """Streams by generator and streams by context.write are both wrapped as a generator."""

    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        began = time.perf_counter()
        try:
            _check_deadline(context)
            answers = inner(request, context)
            if inspect.isawaitable(answers):
                await answers
            else:
                task = asyncio.current_task()
                assert task is not None
                async for answer in answers:
                    stalled = asyncio.get_running_loop().call_later(
                        LONGEST_STALL_S, _end_stalled, method, context, task
                    )
                    try:
                        yield answer
                    finally:
                        stalled.cancel()
        except Exception as error:  # noqa: BLE001 - the border: every error becomes a status
            await _abort(method, context, error)
        _count(method, "OK", began)

    return call


def _end_stalled(method: str, context: Any, task: "asyncio.Task[Any]") -> None:
    """The status goes behind what the connection has of the stream already, without waiting for it; the handler ends."""
    get_logger("grpc").warning("stream_stalled", method=method, seconds=LONGEST_STALL_S)
    RPCS.labels(method, "STALLED").inc()
    telling = asyncio.ensure_future(_tell_stalled(context))
    _TELLING.add(telling)
    telling.add_done_callback(_TELLING.discard)
    asyncio.get_running_loop().call_soon(task.cancel)


async def _tell_stalled(context: Any) -> None:
    error = ResourceExhaustedError(
        f"no answer was taken for {LONGEST_STALL_S} s; go on from the last cursor", reason="STREAM_STALLED"
    )
    with contextlib.suppress(grpc.aio.AbortError, grpc.aio.UsageError, grpc.aio.InternalError):
        await context.abort_with_status(rpc_status.to_status(status_of(error)))


def _check_deadline(context: Any) -> None:
    remaining = context.time_remaining()
    if remaining is not None and remaining < SHORTEST_DEADLINE_S:
        raise DeadlineTooShortError(f"{remaining:.3f} s remain, {SHORTEST_DEADLINE_S} s are needed")


async def _abort(method: str, context: Any, error: Exception) -> None:
    """Ends the RPC with the error's status. Raises always."""
    if isinstance(error, grpc.aio.AbortError | grpc.aio.UsageError):
        RPCS.labels(method, "ABORTED").inc()
        raise error
    if isinstance(error, RpcError):
        RPCS.labels(method, code_of(error).name).inc()
        await context.abort_with_status(rpc_status.to_status(status_of(error)))
    get_logger("grpc").error("rpc_failed", method=method, type=type(error).__name__, exc_info=error)
    RPCS.labels(method, "INTERNAL").inc()
    await context.abort(grpc.StatusCode.INTERNAL, f"internal error ({type(error).__name__})")


def _count(method: str, code: str, began: float) -> None:
    RPCS.labels(method, code).inc()
    RPC_SECONDS.labels(method).observe(time.perf_counter() - began)


async def wait_and_drain(server: GrpcServer, stop: asyncio.Event, grace_s: float) -> None:
    """Serves until `stop`, then drains."""
    await stop.wait()
    await server.drain(grace_s)
