"""Every Kafka topic of claimledger, declared once.

Topics are created from this table, keys are wrapped for the services named in it, and docs/TOPICS.md is
generated from it. A name says whose it is: `p.<payer>.…` belongs to one payer, `org.<id>.…` to one organisation, the
rest is common. Partitions of internal topics are numbered by bucket, so the producer of a record names the partition.

Networks that share a Kafka are told apart by a prefix before each name there, of topics, consumer groups and transactional
ids: `in_kafka` puts it, and nothing else does.

Source: architecture.md, Who runs what.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

DAY_MS: Final = 24 * 3600 * 1000
LONGEST_PREFIX: Final = 64
"""Characters. The longest name behind it has 86, with a tenant of 63; Kafka takes 249, the dot between them included."""
_PREFIX: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_PREFIX - 1}}}")


def check_prefix(prefix: str) -> str:
    """The prefix, where it may stand before names in Kafka; empty means none. Raises ValueError."""
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ValueError(
            f"the topic prefix {prefix!r} is not 1 to {LONGEST_PREFIX} of the letters, digits, '.', '_' and '-' that Kafka "
            "takes, beginning with a letter or digit"
        )
    return prefix


def in_kafka(name: str, prefix: str) -> str:
    """What a topic, a consumer group or a transactional id of the network with this prefix is called in its Kafka."""
    return f"{prefix}.{name}" if prefix else name


class Scope(Enum):
    """Over what a topic's name varies."""

    PAYER = "p.<payer>"
    ORGANISATION = "org.<id>"
    COMMON = ""


class Service(Enum):
    """Who writes and reads. A service of a payer's topic is that payer's, of an organisation's topic that one's."""

    INTAKE = "intake"
    VALIDATION = "validation"
    FRAUD = "fraud"
    REPLICA = "replica"
    CLIENT = "client"
    """The organisation's own systems and people."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One row of the table.

    `retention_ms` None means compacted. `partitions` None means as many as settings say (buckets). `encrypted` is
    false only where the value is public to the network anyway.
    """

    scope: Scope
    suffix: str
    key: str
    schema: str
    writers: tuple[Service, ...]
    readers: tuple[Service, ...]
    retention_ms: int | None = 7 * DAY_MS
    partitions: int | None = None
    dead_letters: bool = True
    encrypted: bool = True
    about: str = ""

    def name(self, tenant: str = "", prefix: str = "") -> str:
        """The topic's name for one payer or organisation, in the network with this prefix; common topics take no tenant."""
        if self.scope is Scope.COMMON:
            return in_kafka(self.suffix, prefix)
        return in_kafka(f"{'p' if self.scope is Scope.PAYER else 'org'}.{tenant}.{self.suffix}", prefix)


SUBMITTED: Final = Topic(
    Scope.PAYER, "claims.submitted", "member bucket", "claimledger.events.v1.SubmittedBatch",
    (Service.INTAKE,), (Service.VALIDATION,), about="accepted claims, in micro-batches",
)  # fmt: skip
VALIDATED: Final = Topic(
    Scope.PAYER, "claims.validated", "provider bucket", "claimledger.events.v1.ValidatedRecord",
    (Service.VALIDATION,), (Service.FRAUD,), about="priced records under the payer's signature, with facts for scoring",
)  # fmt: skip
REJECTED: Final = Topic(
    Scope.PAYER, "claims.rejected", "claim_ref", "claimledger.events.v1.RejectedClaim",
    (Service.VALIDATION,), (Service.INTAKE, Service.CLIENT), about="claims returned unprocessed, signed by the payer",
)  # fmt: skip
SCORED: Final = Topic(
    Scope.PAYER, "claims.scored", "provider bucket", "claimledger.events.v1.ScoredRecord",
    (Service.FRAUD,), (Service.REPLICA,), about="what the ledger will hold; one consumer group over all replicas",
)  # fmt: skip
RETRY: Final = Topic(
    Scope.PAYER, "claims.retry", "provider bucket", "claimledger.events.v1.ScoredRecord",
    (Service.FRAUD,), (Service.REPLICA,), about="overdue claims sent again; every replica reads all of it",
)  # fmt: skip
RAW_STATUS: Final = Topic(
    Scope.PAYER, "status.raw", "claim bucket", "claimledger.events.v1.StatusBatch",
    (Service.INTAKE, Service.VALIDATION, Service.FRAUD, Service.REPLICA), (Service.INTAKE,),
    about="steps as stages report them; the projector orders them",
)  # fmt: skip
SCORES: Final = Topic(
    Scope.PAYER, "fraud.scores", "claim_ref", "claimledger.fraud.v1.FraudScore",
    (Service.FRAUD,), (Service.CLIENT,), dead_letters=False, about="score and reasons of every claim",
)  # fmt: skip
ALERTS: Final = Topic(
    Scope.PAYER, "fraud.alerts", "claim_ref", "claimledger.fraud.v1.FraudAlert",
    (Service.FRAUD,), (Service.CLIENT,), dead_letters=False, about="claims held for analysts",
)  # fmt: skip
VALIDATION_STATE: Final = Topic(
    Scope.PAYER, "validation.state", "member_ref, claim_ref, version", "validation's own state record",
    (Service.VALIDATION,), (Service.VALIDATION,), retention_ms=None,
    about="member history, rebuilt after restart and rebalance",
)  # fmt: skip
FRAUD_STATE: Final = Topic(
    Scope.PAYER, "fraud.state", "observed/<n> or snapshot/<n>/<part>", "claimledger.fraud.v1.ScoringSnapshot",
    (Service.FRAUD,), (Service.FRAUD,), retention_ms=None, about="windows and quantiles of scoring",
)  # fmt: skip
STATUS: Final = Topic(
    Scope.ORGANISATION, "status", "claim_ref", "claimledger.events.v1.StatusEvent",
    (Service.INTAKE,), (Service.CLIENT,), dead_letters=False, about="one ordered stream per claim, for its parties",
)  # fmt: skip
LATEST_STATUS: Final = Topic(
    Scope.ORGANISATION, "status.latest", "claim_ref", "claimledger.events.v1.StatusEvent",
    (Service.INTAKE,), (Service.CLIENT,), retention_ms=None, dead_letters=False, about="the latest step of each claim",
)  # fmt: skip
SETTLEMENTS: Final = Topic(
    Scope.ORGANISATION, "settlements", "claim_ref", "claimledger.ledger.v1.SettlementProof",
    (Service.REPLICA,), (Service.CLIENT, Service.INTAKE), retention_ms=365 * DAY_MS,
    about="each result of a claim with its proof, to each of its parties",
)  # fmt: skip
BLOCKS: Final = Topic(
    Scope.COMMON, "ledger.blocks", "height", "claimledger.ledger.v1.BlockEvent",
    (Service.REPLICA,), (Service.CLIENT,), retention_ms=365 * DAY_MS, partitions=1, dead_letters=False, encrypted=False,
    about="headers with the certificates that commit them",
)  # fmt: skip
PUBLISHER: Final = Topic(
    Scope.COMMON, "ledger.publisher", "cursor", "claimledger.ledger.v1.PublisherCursor",
    (Service.REPLICA,), (Service.REPLICA,), retention_ms=None, partitions=1, dead_letters=False, encrypted=False,
    about="how far the one publisher has come",
)  # fmt: skip

TABLE: Final = (
    SUBMITTED, VALIDATED, REJECTED, SCORED, RETRY, RAW_STATUS, SCORES, ALERTS, VALIDATION_STATE, FRAUD_STATE,
    STATUS, LATEST_STATUS, SETTLEMENTS, BLOCKS, PUBLISHER,
)  # fmt: skip
DEAD_LETTER_RETENTION_MS: Final = 7 * DAY_MS
DEAD_LETTER_SUFFIX: Final = ".dlq"


@dataclass(frozen=True, slots=True)
class NamedTopic:
    """A row of the table for one tenant of the network with this prefix; `tenant` is empty for common topics."""

    row: Topic
    tenant: str
    prefix: str = ""

    @property
    def name(self) -> str:
        return self.row.name(self.tenant, self.prefix)

    @property
    def dead_letter_name(self) -> str:
        return self.name + DEAD_LETTER_SUFFIX


def named_topics(payers: Iterable[str], organisations: Iterable[str], prefix: str = "") -> Iterator[NamedTopic]:
    """All topics of a network, in table order."""
    tenants = {Scope.PAYER: tuple(payers), Scope.ORGANISATION: tuple(organisations), Scope.COMMON: ("",)}
    for row in TABLE:
        for tenant in tenants[row.scope]:
            yield NamedTopic(row, tenant, prefix)


def bucket_of(key: bytes, buckets: int) -> int:
    """The partition for a key: the first 4 bytes of its SHA-256, modulo the number of buckets."""
    return int.from_bytes(hashlib.sha256(key).digest()[:4], "big") % buckets
