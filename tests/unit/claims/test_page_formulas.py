"""What docs/ENCODING.md says of hashes, signed messages, files and sealed values is what the code makes."""

import datetime
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from claim_intake import envelope
from claims import claim, rejection, status, transaction
from claims.claim import commitment
from claims.encoding import Codec, DecodeError
from claims.transaction import GENESIS, ReviewDecision
from ledger_commit.adapters.block_log import BlockLog, CommitMarker, reference
from ledger_commit.adapters.disk import RealFile
from ledger_commit.adapters.safety_record import SafetyFile
from ledger_commit.consensus import evidence, messages
from ledger_commit.consensus.committee import Committee, Member
from ledger_commit.consensus.events import SAFETY_RECORD
from ledger_commit.consensus.tree import genesis_id
from ledger_commit.settlement import State
from runtime.topic_keys import TopicKeys
from tests.fixtures.ledger_world import CHAIN_ID, GENESIS_BYTES, LedgerWorld, line, rule, scored_entry
from tests.fixtures.ledger_world import claim as priced_claim
from tests.fixtures.ledger_world import genesis as founding
from tests.unit.claims import page_formulas as page
from tests.unit.claims import second_decoder
from tests.unit.claims.declared import codecs
from tests.unit.claims.make_vectors import VECTORS

CHAIN = hashlib.sha256(b"a chain").digest()
HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
SOME = {v["structure"]: v for v in json.loads(VECTORS.read_text()) if v["size"] == "some"}
GOLDEN = {
    "block_id": "b9fd224e42c0540b960e7773708dae1c8447dd8f2253ac3e81cf7fe855d4e0f8",
    "vote": "167208a241b0e74a62a7ea9985fc45836475a726df3b5fc5ac3687e8cc6295de",
    "timeout": "95827f1f3cdd19d707083188fc292363045d217b6c709ebcccbcacdd39aa7567",
    "batch": "07dcdac0f1c51103affea352696bf5310087fe97ddf56aded0cadbec1e1b0bd0",
}


def sample(name: str) -> Any:
    """The codec's value of the golden vector."""
    return codecs()[name].decode(bytes.fromhex(SOME[name]["hex"]))


def plain(name: str) -> dict[str, Any]:
    value: dict[str, Any] = SOME[name]["value"]
    return value


def test_consensus_signs_the_messages_of_the_page() -> None:
    timeout = sample("Timeout")
    told = messages.timeout_message(CHAIN, timeout.epoch, timeout.round, timeout.high_qc.round)
    assert messages.block_id(sample("BlockHeader")) == page.block_id(plain("BlockHeader"))
    assert messages.vote_message(CHAIN, sample("VoteData")) == page.vote_message(CHAIN, plain("VoteData"))
    assert told == page.timeout_message(CHAIN, plain("Timeout"))
    assert messages.batch_digest(sample("Batch")) == page.batch_digest(plain("Batch"))
    told = page.message(6, CHAIN, 0, second_decoder.encode("BatchRef", plain("BatchRef")))
    assert messages.batch_message(CHAIN, sample("BatchRef")) == told
    assert genesis_id(CHAIN) == page.message(1, CHAIN, 0, b"genesis")


def test_these_messages_never_change() -> None:
    """Signatures on ledgers are over them."""
    assert page.block_id(plain("BlockHeader")).hex() == GOLDEN["block_id"]
    assert page.vote_message(CHAIN, plain("VoteData")).hex() == GOLDEN["vote"]
    assert page.timeout_message(CHAIN, plain("Timeout")).hex() == GOLDEN["timeout"]
    assert page.batch_digest(plain("Batch")).hex() == GOLDEN["batch"]


def test_digests_in_headers_and_votes_are_those_of_the_page() -> None:
    references = (sample("BatchRef"), sample("BatchRef"))
    assert messages.batches_root(references) == page.batches_root([plain("BatchRef")] * 2)
    assert messages.batches_root(()) == page.batches_root([]) == bytes(32)
    for name in ("QuorumCert", "TimeoutCert"):
        assert messages.certificate_digest(sample(name)) == page.sha(bytes.fromhex(SOME[name]["hex"]))
    assert messages.certificate_digest(None) == bytes(32)
    assert messages.commit_digest(1, 2, CHAIN, 3) == page.commit_digest(1, 2, CHAIN, 3)


PIECES = {1: "DoubleVote", 2: "DoubleProposal", 3: "LockViolation", 4: "DoubleTimeout", 5: "DoubleBatch"}


@pytest.mark.parametrize(("kind", "name"), PIECES.items())
def test_a_piece_of_evidence_is_its_kind_and_its_structure(kind: int, name: str) -> None:
    """Codec and second decoder read the same piece; under another first byte, or with one byte less, it is none."""
    piece = bytes((kind,)) + second_decoder.encode(name, plain(name))
    assert evidence.encode(sample(name)) == piece
    assert evidence.decode(piece) == sample(name)
    assert len(piece) <= messages.MAX_EVIDENCE_BYTES
    for wrong in (b"", piece[:-1], *(bytes((other,)) + piece[1:] for other in range(256) if other != kind)):
        try:
            read = evidence.decode(wrong)
        except DecodeError:
            continue
        pytest.fail(f"{wrong[0]} decodes to {read}")


def test_the_evidence_root_is_that_of_the_page() -> None:
    pieces = tuple(bytes((kind,)) + bytes.fromhex(SOME[name]["hex"]) for kind, name in PIECES.items())
    assert evidence.evidence_root(pieces) == page.evidence_root(pieces)
    assert evidence.evidence_root(()) == page.evidence_root(()) == bytes(32)
    assert len({evidence.evidence_root(told) for told in (pieces, pieces[::-1], pieces[1:], (b"".join(pieces),))}) == 4


def test_the_header_has_the_length_that_the_page_tells() -> None:
    assert len(second_decoder.encode("BlockHeader", plain("BlockHeader"))) == 413


def test_the_genesis_certificate_is_the_constant_of_the_page() -> None:
    data = {"epoch": 0, "round": 0, "block_id": CHAIN.hex(), "parent_id": "00" * 32, "parent_round": 0}
    certificate = {"data": {**data, "commit_digest": "00" * 32}, "signers": "", "aggregate": "00" * 96}
    encoded = second_decoder.encode("QuorumCert", certificate)
    assert messages.QUORUM_CERT.encode(messages.genesis_cert(CHAIN)) == encoded


@pytest.mark.parametrize("epoch", [0, 1, 2**40])
def test_leaders_are_drawn_as_the_page_says(epoch: int) -> None:
    genesis = second_decoder.decode("Genesis", GENESIS_BYTES)
    members = tuple(Member(r.organisation, r.bls_public_key, r.lane_public_key) for r in founding().replicas)
    committee = Committee(CHAIN_ID, epoch, members)
    order = page.schedule(genesis, CHAIN_ID, epoch)
    assert committee.hash == page.committee_hash(genesis)
    assert [committee.leader_of(r) for r in range(8)] == order * 2
    assert committee.schedule_digest == page.sha(b"schedule", bytes(order))


def test_the_state_root_of_a_genesis_follows_from_its_bytes() -> None:
    state = State.from_genesis(GENESIS.decode(GENESIS_BYTES), CHAIN_ID)
    assert state.root == page.genesis_state_root(second_decoder.decode("Genesis", GENESIS_BYTES), CHAIN_ID)


def test_the_state_root_covers_every_write_and_keys_have_the_form_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of write occurs, and each has a key of the length that its row gives."""
    world, told, seen = LedgerWorld(), [], []
    through = State.write

    def write(state: State, kind: bytes, key: bytes, value: bytes) -> None:
        told.append((kind, key, value))
        through(state, kind, key, value)

    monkeypatch.setattr(State, "write", write)
    tag, other = b"\x07" * 32, b"\x01" * 32
    steps: list[Callable[[], object]] = [
        lambda: world.plan([rule(transaction.AccumulatorKind.DEDUCTIBLE, 50_000)]),
        lambda: world.enroll("ada"),
        lambda: world.block(scored_entry([priced_claim("one", [line(deductible_applies=True, duplicate_tag=tag)])])),
        lambda: world.block(scored_entry([priced_claim("one", [line()], commitment=other)])),
        lambda: world.block(scored_entry([priced_claim("two", [line(duplicate_tag=other)])], pend=(0,))),
        lambda: world.review("two", ReviewDecision.DENY, "50"),
        lambda: world.block(world.statement("aurora")),
        world.block,
    ]
    for step in steps:
        before = world.state.root
        told.clear()
        step()
        assert world.state.root == page.state_root(before, told)
        seen += told
    lengths = {kind: (len(key), len(value)) for kind, key, value in seen}
    gold, aurora = len("gold"), len("aurora")
    assert lengths == {
        b"p": (gold + 2, 32),
        b"m": (gold + 2 + 16, 16 + 8),
        b"s": (aurora + 2, 8),
        b"l": (aurora, 4 + 8),
        b"x": (32, 0),
        b"a": (gold + 2 + 4 + 16, 8),
        b"c": (aurora + 16 + 2, 1 + 2 + 32),
        b"r": (16 + 2, 32),
        b"t": (32, 0),
        b"n": (aurora + 1 + len("riverside"), 8),
    }
    pended = next(value for kind, _, value in seen if kind == b"c" and len(value) > 35)
    assert pended[35:] == page.sha(transaction.PRICED_CLAIM.encode(priced_claim("two", [line(duplicate_tag=other)])))


def test_claims_are_committed_to_and_told_as_the_page_says() -> None:
    for length in (0, 1_000, 1_023, 1_024, 32 * 1024 - 1):
        assert commitment(CHAIN, bytes(length)) == page.commitment(CHAIN, bytes(length))
    assert status.event_id(CHAIN[:16], 7, 4) == page.status_event_id(CHAIN[:16], 7, 4)


def test_organisations_sign_a_label_and_the_bytes() -> None:
    assert transaction.record_message(b"\x01r") == b"claimledger/v1/record\x01r"
    assert transaction.scoring_message(CHAIN, b"\x05") == b"claimledger/v1/scoring" + CHAIN + b"\x05"
    assert transaction.transaction_message(b"\x01t") == b"claimledger/v1/transaction\x01t"
    assert transaction.operator_message(CHAIN, 7, b"\x01o") == page.message(5, CHAIN, 7, b"\x01o")
    assert rejection.rejection_message(b"\x01j") == b"claimledger/v1/rejection\x01j"
    assert scored_entry([])[:1] == bytes((transaction.ENTRY_SCORED_RECORD,)) == b"\x01"
    assert transaction.ENTRY_TRANSACTION == 2


def test_the_block_log_is_the_file_of_the_page(tmp_path: Path) -> None:
    proposal, batch, qc = sample("Proposal"), sample("Batch"), sample("QuorumCert")
    encoded = bytes.fromhex(SOME["Batch"]["hex"])
    with RealFile(tmp_path / "blocks.log") as file:
        log = BlockLog(file, CHAIN, 0)
        log.append_batch(batch, encoded, reference(batch, encoded))
        log.append_block(proposal)
        log.append_commit(CommitMarker(1, b"a" * 32, qc))
        log.append_commit(CommitMarker(2, b"b" * 32, None))
        log.sync()
    height = page.big(1, 8)
    assert (tmp_path / "blocks.log").read_bytes() == page.block_log(
        CHAIN,
        [
            (2, encoded),
            (1, bytes.fromhex(SOME["Proposal"]["hex"])),
            (3, height + b"a" * 32 + bytes.fromhex(SOME["QuorumCert"]["hex"])),
            (3, page.big(2, 8) + b"b" * 32),
        ],
    )


def test_the_safety_file_has_the_two_slots_of_the_page(tmp_path: Path) -> None:
    record, encoded = sample("SafetyRecord"), bytes.fromhex(SOME["SafetyRecord"]["hex"])
    with RealFile(tmp_path / "safety") as file:
        kept = SafetyFile(file)
        for size in (100, 200, 300):
            kept.save(record, size)
    slots = page.safety_slot(2, 200, encoded) + page.safety_slot(3, 300, encoded)
    assert (tmp_path / "safety").read_bytes() == slots
    with RealFile(tmp_path / "safety") as file:
        assert SafetyFile(file).load() == (SAFETY_RECORD.decode(encoded), 300)


def test_an_envelope_opens_by_the_page() -> None:
    """From the recipient's private key to the canonical claim, with the page's framings only."""
    private, ref, salt, canonical = X25519PrivateKey.generate(), CHAIN[:16], CHAIN, bytes.fromhex(SOME["Claim"]["hex"])
    recipient = envelope.Recipient("payer", "validation", private.public_key())
    under = envelope.new_wrapping_key(b"i" * 16, b"k" * 32, "payer", "clinic", (recipient,))
    sealed = envelope.seal(canonical, ref, 1, CHAIN, under, salt, bytes(range(56)))

    wrap = second_decoder.decode("WrapList", under.wraps)["wraps"][0]
    parts = ("claimledger/v1/envelope-key", (b"i" * 16).hex(), "payer", "clinic", "payer")
    key = HPKE.decrypt(bytes.fromhex(wrap["sealed"]), private, info="\0".join(parts).encode())
    told = AESGCM(key).decrypt(
        sealed.key_wrap[:12], sealed.key_wrap[12:], b"claimledger/v1/claim-key" + ref + page.big(1, 2)
    )
    claim_key, found_salt = told[:32], told[32:]
    stored = second_decoder.decode("Envelope", sealed.envelope)
    header = bytes.fromhex(stored["header"])
    plain_text = AESGCM(claim_key).decrypt(bytes.fromhex(stored["nonce"]), bytes.fromhex(stored["ciphertext"]), header)
    facts = second_decoder.decode("EnvelopeHeader", header)
    assert (found_salt, plain_text.rstrip(b"\0")) == (salt, canonical + b"\x80")
    assert facts["key_digest"] == page.sha(claim_key).hex()
    assert facts["commitment"] == page.commitment(salt, canonical).hex()
    assert (facts["suite"], facts["schema"]) == (1, "claimledger.claims.v1.Claim/canonical/1")
    assert sealed.digest == page.sha(sealed.envelope)
    assert len(sealed.key_wrap) == 92


def test_a_kafka_value_opens_by_the_page(tmp_path: Path) -> None:
    private, noon = X25519PrivateKey.generate(), datetime.datetime(2026, 3, 4, 12, tzinfo=datetime.UTC)
    wraps = {"payer/fraud": private.public_key().public_bytes_raw().hex()}
    keys = TopicKeys(tmp_path, "payer/fraud", private, lambda _: wraps, noon.timestamp)
    value, headers = keys.seal("p.payer.claims.scored", b"key", "schema", b"plain")

    wrapped = json.loads((tmp_path / "p.payer.claims.scored" / "2026-03-04.json").read_text())
    info = b"claimledger/v1/topic-key p.payer.claims.scored 2026-03-04"
    key = HPKE.decrypt(bytes.fromhex(wrapped["wraps"]["payer/fraud"]), private, info=info)
    bound = b"".join(page.big(len(part), 4) + part for part in (b"p.payer.claims.scored", b"key", b"schema"))
    assert AESGCM(key).decrypt(value[:12], value[12:], bound) == b"plain"
    assert headers == [("key-id", b"2026-03-04." + page.sha(key).hex()[:8].encode())]
    assert (wrapped["topic"], wrapped["day"]) == ("p.payer.claims.scored", "2026-03-04")


def test_the_canonical_claim_is_the_first_structure_of_the_page() -> None:
    assert isinstance(claim.CLAIM, Codec)
    assert claim.CLAIM.encode(sample("Claim")) == second_decoder.encode("Claim", plain("Claim"))
