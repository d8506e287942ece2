"""`python -m duplicate_tags`: the tag service of a neutral organisation."""

import asyncio
import contextlib
import os
from pathlib import Path

from claimledger.tags.v1 import tags_pb2, tags_pb2_grpc
from duplicate_tags.service import TagServicer
from runtime.grpc_server import GrpcServer, wait_and_drain
from runtime.identity import server_name
from runtime.network import load_network, organisation_directory
from runtime.pki import KeyFileError, TlsFiles, read_private, write_private
from runtime.process import announce, run_process
from runtime.settings import Settings

KEY_BYTES = 32


class TagSettings(Settings):
    tags_organisation: str = "meridian"
    """Who runs the service; must be no payer."""


def load_key(path: Path) -> bytes:
    """The HMAC key, made at the first start. Losing it ends the comparison with all earlier tags."""
    with contextlib.suppress(FileExistsError):  # the usual case
        write_private(path, os.urandom(KEY_BYTES).hex().encode())
    key = bytes.fromhex(read_private(path).decode("ascii"))
    if len(key) != KEY_BYTES:
        raise KeyFileError(f"{path} holds {len(key)} bytes, {KEY_BYTES} are wanted")
    return key


def main() -> None:
    settings = TagSettings()

    async def run(stop: asyncio.Event) -> None:
        network = load_network(settings.run)
        place = organisation_directory(settings.run, settings.tags_organisation)
        tls = TlsFiles(place / "tags.pem", place / "tags.key", settings.run / "ca.pem")
        tls.require_server(server_name("tags"))
        server = GrpcServer(network.tags_address, tls)
        tags_pb2_grpc.add_DuplicateTagServiceServicer_to_server(TagServicer(load_key(place / "tags.hmac")), server.grpc)
        await server.start(tags_pb2.DESCRIPTOR.services_by_name["DuplicateTagService"].full_name)
        announce("duplicate-tags", grpc=network.tags_address, key=str(place / "tags.hmac"))
        await wait_and_drain(server, stop, settings.drain_s)

    run_process("duplicate-tags", settings, run)


if __name__ == "__main__":
    main()
