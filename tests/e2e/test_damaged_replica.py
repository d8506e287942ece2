"""A replica whose disk is not what it left: it names what is wrong, and never votes on a guess.

`replica-meridian` of the shared network is damaged and mended here; the three others go on meanwhile.
"""

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from claims.transaction import ENTRY_SCORED_RECORD
from cli.processes import ProcessError
from ledger_commit.adapters.block_log import _ENTRY_HEAD, _FILE_HEAD, BlockLog
from ledger_commit.adapters.disk import RealFile
from ledger_commit.consensus.messages import BATCH, Batch
from ledger_commit.opening import committee_of, read_genesis
from runtime.bls import Bls, backend
from runtime.network import GENESIS_FILE
from tests.e2e.loads import planned, run_load
from tests.e2e.running import Running, until

pytestmark = pytest.mark.e2e
REPLICA: Final = "replica-meridian"
WITHIN_S: Final = 20


@pytest.fixture
def directory(network: Running) -> Iterator[Path]:
    """The stopped replica's files. Afterwards it has its safety record again and takes part; it never goes back to an
    older log, since that is another fault."""
    assert network.processes.stop(REPLICA)
    place = network.run / "data" / REPLICA
    record = (place / "safety.rec").read_bytes()
    yield place
    told = network.status_of(REPLICA)
    network.processes.stop(REPLICA)
    if not (place / "safety.rec").exists() or (told is not None and "safety record" in told.not_voting):
        (place / "safety.rec").write_bytes(record)  # nothing was signed since
    network.start(REPLICA)
    caught_up(network)


def caught_up(network: Running) -> None:
    """The replica takes part and has what the others have."""

    def holds() -> bool:
        mine, other = network.status_of(REPLICA), network.status_of("replica-aurora")
        return bool(mine and other and not mine.not_voting and mine.executed_height >= other.executed_height)

    until(holds, WITHIN_S, "the mended replica does not take part")


def refusal_to_start(network: Running) -> str:
    """What the person who starts it reads."""
    with pytest.raises(ProcessError) as caught:
        network.start(REPLICA)
    assert network.processes.process(REPLICA) is None
    return str(caught.value)


def entry_around(log: bytes | bytearray, offset: int) -> int:
    """Where the entry begins that holds this byte."""
    at = _FILE_HEAD.size
    while True:
        length, _, _ = _ENTRY_HEAD.unpack_from(log, at)
        end = at + _ENTRY_HEAD.size + length
        if offset < end:
            return at
        at = end


def test_a_flipped_bit_in_the_block_log_is_named_by_its_entry(network: Running, directory: Path) -> None:
    path = directory / "blocks.log"
    log = bytearray(path.read_bytes())
    middle = len(log) // 2
    log[middle] ^= 0x10
    path.write_bytes(log)
    told = refusal_to_start(network)
    assert f"damaged at byte {entry_around(log, middle)}" in told
    assert path.read_bytes() == log, "nothing was cut off"
    log[middle] ^= 0x10
    path.write_bytes(log)


def test_a_truncated_block_log_is_refused_and_an_unfinished_write_is_cut_off(network: Running, directory: Path) -> None:
    """What had been durable may not be missing; what was being written when the power went may."""
    path = directory / "blocks.log"
    log = path.read_bytes()
    path.write_bytes(log[: len(log) // 2])
    assert f"truncated: {len(log) // 2} bytes where" in refusal_to_start(network)

    torn = _ENTRY_HEAD.pack(1000, 1, 0) + b"begun"
    path.write_bytes(log + torn)
    network.start(REPLICA)
    caught_up(network)
    assert f'"bytes": {len(torn)}, "event": "log_end_cut"' in network.log_of(REPLICA)


def test_a_replica_without_its_safety_record_follows_and_votes_again_when_its_organisation_says_so(
    network: Running, directory: Path
) -> None:
    """It has every result of the others, and takes no claims; the person at the keyboard sees why it does not vote. By the
    command that the person runs then, who says first that it is meant, it votes, and blocks name the second incarnation of
    its lane with claims that it took from Kafka."""
    (directory / "safety.rec").unlink()
    assigned = network.log_of(REPLICA).count("partitions_assigned")
    network.start(REPLICA)
    follows_and_says_so(network)
    network.processes.stop(REPLICA)
    network.start(REPLICA)
    again = until(lambda: network.status_of(REPLICA), WITHIN_S, "no answer")
    assert "safety record is lost" in again.not_voting, "a second start does not forget it"
    assert network.log_of(REPLICA).count("partitions_assigned") == assigned, "it joins no consumer group"

    stated = rejoins(network)
    until(lambda: network.log_of(REPLICA).count("partitions_assigned") > assigned, WITHIN_S, "it takes no claims")
    report = run_load(network, f"rejoined-{secrets.token_hex(3)}", planned(network, 94, 40), 60)
    assert report.unaccounted == []
    caught_up(network)
    network.processes.stop(REPLICA)
    batches, rounds = of_new_lane(network, directory)
    network.start(REPLICA)
    caught_up(network)
    assert any(entry[:1] == bytes((ENTRY_SCORED_RECORD,)) for batch in batches for entry in batch.records)
    assert max(rounds) > stated["after_round"]


def follows_and_says_so(network: Running) -> None:
    before = until(lambda: network.status_of(REPLICA), WITHIN_S, "no answer")
    assert "safety record is lost" in before.not_voting
    report = run_load(network, f"without-{secrets.token_hex(3)}", planned(network, 92, 30), 60)
    assert report.unaccounted == []

    def followed() -> bool:
        mine, other = network.status_of(REPLICA), network.status_of("replica-aurora")
        return bool(mine and other and mine.results_size == other.results_size > before.results_size)

    until(followed, WITHIN_S, "it does not follow")
    rows = network.said_here("status", "--json").rows
    row = next(row for row in rows if row.get("replica") == "meridian")
    assert "safety record is lost" in row["state"]
    assert "not_voting" in network.log_of(REPLICA)


def rejoins(network: Running) -> Mapping[str, Any]:
    """What the command says; without --yes it does nothing, and neither does it the second time."""
    asked = network.said_here("replica", "rejoin", "meridian")
    assert (asked.code, "say --yes" in asked.err) == (1, True)
    said = network.said_here("replica", "rejoin", "meridian", "--yes", "--json")
    assert said.code == 0, said.err
    (told,) = said.rows
    assert (said.code, told["rejoined"], told["incarnation"]) == (0, True, 2)
    repeated = network.said_here("replica", "rejoin", "meridian", "--yes", "--json")
    assert (repeated.code, [row["rejoined"] for row in repeated.rows]) == (0, [False])
    return told


def of_new_lane(network: Running, directory: Path) -> tuple[list[Batch], list[int]]:
    """From its block log: the committed batches of the second incarnation of its lane, and the rounds whose certificates have its
    signature."""
    genesis, chain_id = read_genesis(network.run / GENESIS_FILE)
    committee = committee_of(genesis, chain_id, Bls(backend()))
    me = committee.index_of("meridian")
    with RealFile(directory / "blocks.log") as file:
        log = BlockLog(file, chain_id, 0)
        blocks = [block for marker in log.markers.values() if (block := log.block(marker.id))]
        named = [ref for block in blocks for ref in block.batches if ref.lane == (me, 2)]
        batches = [BATCH.decode(encoded) for ref in named if (encoded := log.batch_bytes(ref.digest))]
    return batches, [b.qc.round for b in blocks if me in (committee.signers(b.qc.signers) or [])]
