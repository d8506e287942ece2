"""Client channels: mutual TLS with the service that is meant, the limits of the server, keepalive. Retries are the caller's decision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from runtime.grpc_server import MAX_RECEIVE_BYTES
from runtime.pki import TlsFiles

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", MAX_RECEIVE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),
)


_REFUSED: Final = ("Hostname Verification Check failed", "CERTIFICATE_VERIFY_FAILED")
"""How gRPC words that a server's certificate is for another name, for no server, or of another authority."""
PROBE_S: Final = 2.0


class WrongServerError(Exception):
    """Who answers is not who was meant. Nothing was sent to it."""

    def __init__(self, address: str, server_name: str) -> None:
        self.server_name = server_name
        super().__init__(
            f"who answers at {address} did not prove to be {server_name}, and got nothing: check the address in network.json, "
            "and that the service there has the certificate with that name from this network's authority (ca.pem)"
        )


def require_right_server(error: grpc.RpcError, address: str, server_name: str) -> None:
    """Raises WrongServerError where the call failed since the server proved to be no or another one."""
    if error.code() is grpc.StatusCode.UNAVAILABLE and any(words in (error.details() or "") for words in _REFUSED):
        raise WrongServerError(address, server_name) from error


async def probe(channel: grpc.aio.Channel, address: str, server_name: str) -> None:
    """Asks why a channel does not become ready. Raises WrongServerError; returns for any other reason."""
    try:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PROBE_S)
    except grpc.aio.AioRpcError as error:
        require_right_server(error, address, server_name)


def open_channel(address: str, tls: TlsFiles, server_name: str) -> grpc.aio.Channel:
    """A channel to `address` (host:port); use as an async context manager, or close it. Connects lazily.

    The server's certificate must carry `server_name`, and the address counts for nothing (`runtime.identity`).
    """
    return grpc.aio.secure_channel(address, _credentials(tls), options=_named(server_name))


@contextmanager
def open_blocking_channel(address: str, tls: TlsFiles, server_name: str) -> Iterator[grpc.Channel]:
    """The same for code without a loop, such as the command line. Raises WrongServerError out of calls within."""
    with grpc.secure_channel(address, _credentials(tls), options=_named(server_name)) as channel:
        try:
            yield channel
        except grpc.RpcError as error:
            require_right_server(error, address, server_name)
            raise


def _credentials(tls: TlsFiles) -> Any:
    key, chain, root = tls.read()
    return grpc.ssl_channel_credentials(root_certificates=root, private_key=key, certificate_chain=chain)


def _named(server_name: str) -> list[tuple[str, Any]]:
    return [*_OPTIONS, ("grpc.ssl_target_name_override", server_name)]
