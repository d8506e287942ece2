"""Client channels: mutual TLS, the limits of the server, keepalive. Retries are the caller's decision."""

from typing import Any, Final

import grpc

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


def open_channel(address: str, tls: TlsFiles, *, server_name: str = "localhost") -> grpc.aio.Channel:
    """A channel to `address` (host:port); use as an async context manager, or close it. Connects lazily.

    `server_name` is the DNS name that the server's certificate must carry.
    """
    return grpc.aio.secure_channel(address, _credentials(tls), options=_named(server_name))


def open_blocking_channel(address: str, tls: TlsFiles, *, server_name: str = "localhost") -> grpc.Channel:
    """The same for code without a loop, such as the command line."""
    return grpc.secure_channel(address, _credentials(tls), options=_named(server_name))


def _credentials(tls: TlsFiles) -> Any:
    key, chain, root = tls.read()
    return grpc.ssl_channel_credentials(root_certificates=root, private_key=key, certificate_chain=chain)


def _named(server_name: str) -> list[tuple[str, Any]]:
    return [*_OPTIONS, ("grpc.ssl_target_name_override", server_name)]
