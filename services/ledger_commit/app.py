"""Where a replica is put together: disk, core, peers, lane, feeders, publisher, services."""

import asyncio
import secrets
import time
from collections import Counter, deque
from itertools import islice
from typing import Any

from aiokafka.errors import KafkaError
from sqlalchemy.exc import SQLAlchemyError

from claimledger.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from claims.result import ClaimResult
from ledger_commit.consensus.pacemaker import Pace
from ledger_commit.cursor import Progress, PublishingWatch
from ledger_commit.feeder import feeders
from ledger_commit.keys import load_keys, verify_ed25519
from ledger_commit.ledger import Ledger, OpaqueLedger
from ledger_commit.node import Node
from ledger_commit.opening import Opened, committee_of, open_disk, read_genesis
from ledger_commit.peer_service import PeerServicer
from ledger_commit.peers import Peer, Peers
from ledger_commit.publisher import Publisher
from ledger_commit.results import BLOCK_TIMES, ProvenResults
from ledger_commit.seen import SeenRecords
from ledger_commit.servicer import LedgerServicer
from ledger_commit.settings import ReplicaSettings
from ledger_commit.settlement.authenticity import forgery_of_record
from ledger_commit.store import Projected, Projection, accusations
from runtime.bls import Bls, backend
from runtime.database import root_type
from runtime.failing import StageBrokenError
from runtime.grpc_server import GrpcServer
from runtime.identity import server_name
from runtime.kafka import SealingProducer, make_producer
from runtime.log import get_logger
from runtime.metrics import LEDGER_COMMITTED_CLAIMS
from runtime.network import GENESIS_FILE, Network, load_network, organisation_directory
from runtime.process import announce, run_together, run_until
from runtime.publishing_cursor import wait_for_own_topics
from runtime.tenant_keys import service_keys
from runtime.topic_keys import SealedValueError
from runtime.topics import RETRY, SCORED

PROJECTION_GROUP = 200
LOADED_RESULTS = 50
LOADED_PAUSE_S = 0.25
"""After so many results in one transaction of the projection the next one waits for company; what is recent is in memory."""
DATABASE_PAUSE_S = 1.0
MAX_UNPROJECTED = 10_000
FEED_AGAIN_S = 1.0
KEYS_AWAY_S = 60.0
"""Before feeding again without keys. Each time sets some records aside (intake sends them again) and moves the group's partitions."""
GENERATE_PAUSE_S = 0.02
MAX_BURST = 1000
SERVICES = tuple(ledger_pb2.DESCRIPTOR.services_by_name[name].full_name for name in ("LedgerService", "PeerService"))


class ProjectionLostError(RuntimeError):
    """More blocks wait for the projection than memory should hold; a new start rebuilds it from the block log."""


class NotInCommitteeError(ValueError):
    """The organisation is no member of the founding committee."""


class Assembly:
    """One replica's parts and what flows from execution to projection, metrics and publisher."""

    def __init__(self, settings: ReplicaSettings, network: Network) -> None:
        self.settings = settings
        self.network = network
        self.genesis, chain_id = read_genesis(settings.run / GENESIS_FILE)
        bls = Bls(backend())
        self.committee = committee_of(self.genesis, chain_id, bls)
        index = self.committee.index_of(settings.replica_organisation)
        if index is None:
            raise NotInCommitteeError(f"{settings.replica_organisation} is not in the committee of {GENESIS_FILE}")
        self.me = index
        place = organisation_directory(settings.run, settings.replica_organisation)
        keys = load_keys(place)
        opaque = settings.replica_contract == "opaque"
        self.ledger: Ledger = (OpaqueLedger if opaque else Ledger)(self.genesis, chain_id)
        log = get_logger("opening")
        self.disk = open_disk(
            settings.data,
            self.committee,
            self.ledger,
            self.genesis,
            lambda height, total: log.info("replaying", height=height, total=total),
        )
        if self.disk.log.recovered:
            log.warning("log_end_cut", bytes=self.disk.log.recovered)
        self.projection = Projection(settings.database_url)
        self.topic_keys = service_keys(settings.run, network, settings.replica_organisation, "replica")
        self._times: dict[int, int] = {}
        self.results = ProvenResults(self.ledger, self.projection, self._times.get)
        self.seen = SeenRecords()
        self.node = Node(
            index,
            self.committee,
            self.genesis,
            keys,
            bls,
            self.disk,
            self.ledger,
            self.on_executed,
            Pace(gather_ms=settings.replica_gather_ms),
            self.seen,
        )
        self.node.peers = self._peers()
        self._to_project: deque[Projected] = deque()
        self._projectable = asyncio.Event()
        self.projected_height = 0

    @property
    def kafka(self) -> str:
        """The broker's address; the settings' goes before the network's."""
        return self.settings.kafka or self.network.kafka

    def _peers(self) -> Peers:
        tls = self.settings.tls
        found = []
        for address in self.network.replicas:
            index = self.committee.index_of(address.organisation)
            if index is not None and index != self.me:
                found.append(Peer(index, address, tls, self.node.on_peer_connected))
        return Peers(found)

    def on_executed(self, blocks: list[Projected]) -> None:
        """On the loop, after each executed group."""
        for block in blocks:
            self._times[block.header.height] = block.header.time_ms
            self._times.pop(block.header.height - BLOCK_TIMES, None)
            ends = Counter(o.outcome for o in block.execution.outcomes if isinstance(o, ClaimResult))
            for outcome, count in ends.items():
                LEDGER_COMMITTED_CLAIMS.labels(outcome.name).inc(count)
        self._to_project.extend(blocks)
        self._projectable.set()
        self.results.wake()

    async def project(self) -> None:
        """Writes executed blocks into the projection, in groups. Raises ProjectionLostError where its database stays away."""
        while True:
            await self._projectable.wait()
            self._projectable.clear()
            while self._to_project:
                group = list(islice(self._to_project, PROJECTION_GROUP))
                if not await self._projected(group):
                    await asyncio.sleep(DATABASE_PAUSE_S)
                elif sum(len(block.execution.results) for block in group) >= LOADED_RESULTS:
                    await asyncio.sleep(LOADED_PAUSE_S)

    async def _projected(self, group: list[Projected]) -> bool:
        """Whether the database took the group. Consensus goes on without it; the blocks wait here meanwhile."""
        try:
            await self.projection.append(group)
        except SQLAlchemyError as error:
            if len(self._to_project) > MAX_UNPROJECTED:
                raise ProjectionLostError(
                    f"{len(self._to_project)} blocks wait for the projection's database"
                ) from error
            get_logger("projection").warning("database_away", type=root_type(error), waiting=len(self._to_project))
            return False
        for _ in group:
            self._to_project.popleft()
        self.projected_height = group[-1].header.height
        self.results.wake()
        return True

    async def open_projection(self) -> None:
        """Brings the projection to where the block log is: adds what is missing, or begins anew where it is ahead."""
        newest = await self.projection.open()
        rebuilt = _projected_from_log(self.disk, self.node)
        if newest > len(rebuilt):
            await self.projection.clear()
            newest = 0
        for block in rebuilt[-BLOCK_TIMES:]:
            self._times[block.header.height] = block.header.time_ms
        for start in range(newest, len(rebuilt), PROJECTION_GROUP):
            await self.projection.append(rebuilt[start : start + PROJECTION_GROUP])
        self.projected_height = len(rebuilt)
        self.disk.executions.clear()
        self.disk.entries.clear()


def _projected_from_log(disk: Opened, node: Node) -> list[Projected]:
    """What `Node` would have told of the blocks that were executed again at start."""
    found, leaf = [], 0
    for identity, entries, execution in zip(disk.chain, disk.entries, disk.executions, strict=True):
        block = disk.log.block(identity)
        assert block is not None
        header = block.header
        marker = disk.log.markers[header.height]
        proposer = node.committee.members[header.proposer].organisation
        batches, accused = len(block.batches), accusations(block, node.committee)
        found.append(Projected(header, identity, proposer, marker.qc, batches, entries, leaf, execution, accused))
        leaf += len(execution.results)
    return found


async def run_replica(settings: ReplicaSettings, stop: asyncio.Event) -> None:
    """Runs until `stop`."""
    network = load_network(settings.run)
    settings.tls.require_server(server_name("replica", settings.replica_organisation))
    made = Assembly(settings, network)
    await made.open_projection()
    publisher = _publisher(made) if settings.replica_publish else None
    watch = _watch(made) if settings.replica_publish or settings.replica_feed else None
    own = next(r for r in network.replicas if r.organisation == settings.replica_organisation)
    server = GrpcServer(own.address, settings.tls)
    ledger_pb2_grpc.add_PeerServiceServicer_to_server(PeerServicer(made.node), server.grpc)
    ledger = LedgerServicer(made.node, made.projection, made.results, publisher, watch)
    ledger_pb2_grpc.add_LedgerServiceServicer_to_server(ledger, server.grpc)
    await server.start(*SERVICES)
    announce(
        f"replica-{settings.replica_organisation}",
        grpc=own.address,
        metrics=settings.metrics_port,
        data=str(settings.data),
        height=made.node.committed_height,
        kafka=made.kafka,
    )
    parts: list[Any] = [made.node.run(), made.node.peers.run(), made.project()]
    if publisher is not None:
        parts.append(publisher.run())
    if watch is not None:
        parts.append(watch.run())
    if settings.replica_feed:
        parts.append(_feed(made))
    if settings.replica_generate_rate:
        parts.append(_generate(made.node, settings.replica_generate_rate))
    try:
        await run_until(stop, *parts)
    finally:
        await server.drain(0.5)
        await made.node.close()
        await made.projection.close()


def _publisher(made: Assembly) -> Publisher:
    return Publisher(
        made.kafka, made.network, made.topic_keys, made.results, made.projection, lambda: made.projected_height
    )


def _watch(made: Assembly) -> PublishingWatch:
    return PublishingWatch(made.kafka, made.network, lambda: Progress(made.results.size, made.projected_height))


async def _feed(made: Assembly) -> None:
    """Feeds from Kafka for as long as this runs; a broker that goes away at any moment is waited for."""
    if made.settings.replica_drop_claims:
        get_logger("feeder").error("fault_injection", what="claims from Kafka are acknowledged and dropped")
    while True:
        # A member of the group whose lane takes nothing would only keep claims from the others.
        await made.node.lane.room()
        pause_s = FEED_AGAIN_S
        try:
            await _feed_while_there(made, made.kafka)
        except SealedValueError as error:  # a dead letter for a topic whose key is damaged
            get_logger("feeder").error("cannot_seal", kind=error.kind, reason=str(error))
        except StageBrokenError as error:  # its keys are away: meanwhile other members have its partitions
            get_logger("feeder").error("keys_away", reason=str(error))
            pause_s = KEYS_AWAY_S
        except (KafkaError, OSError) as error:
            get_logger("feeder").warning("broker_away", type=type(error).__name__)
        await asyncio.sleep(pause_s)


async def _feed_while_there(made: Assembly, kafka: str) -> None:
    """What was taken and not acknowledged is read again the next time; the contract absorbs what has been ordered meanwhile."""
    network = made.network
    topics = [network.topic(row, payer).name for row in (SCORED, RETRY) for payer in network.payers]
    await wait_for_own_topics(kafka, network, topics)
    async with SealingProducer(make_producer(kafka, "ledger-commit"), made.topic_keys, "ledger-commit") as producer:
        running = feeders(
            kafka,
            made.settings.replica_organisation,
            made.me,
            len(made.committee),
            network,
            made.topic_keys,
            made.node.lane,
            producer,
            made.seen,
            lambda scored: forgery_of_record(made.ledger.state, scored, verify_ed25519),
            drop=made.settings.replica_drop_claims,
        )
        await run_together(*(feeder.run() for feeder in running), made.node.lane.closed())


async def _generate(node: Node, rate: int) -> None:
    """An open loop of opaque 512-byte claims at a fixed rate, as far as the lane has room."""
    due, began = 0, time.monotonic()
    while True:
        await asyncio.sleep(GENERATE_PAUSE_S)
        await node.lane.room()
        target = int((time.monotonic() - began) * rate)
        for _ in range(min(target - due, MAX_BURST)):
            node.lane.add(secrets.token_bytes(512), 1, lambda: None)
        due = target
