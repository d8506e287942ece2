"""Which role may call which RPC of LedgerService, and whose results it sees. Source: security.md, Identities and tenants.

PeerService has one rule for all of its RPCs, which is with it: replicas of the committee and nobody else.
"""

from functools import partial
from typing import Final

from claims.result import ClaimResult
from ledger_commit.publications import parties_of
from runtime.identity import Identity, Role, require_role

_ALL: Final = frozenset(Role)

ROLES: Final[dict[str, frozenset[Role]]] = {
    "SubmitTransaction": _ALL - {Role.ANALYST},  # an analyst decides through the payer's own systems
    "GetTransaction": _ALL,
    "GetStatus": _ALL,
    "PrepareRejoin": frozenset({Role.INSURER, Role.PROVIDER, Role.REGULATOR}),  # the replica's own organisation
    "GetBlock": _ALL,
    "ListBlocks": _ALL,
    "GetSettlement": _ALL,
    "SubscribeSettlements": _ALL,
}
_READS_ALL: Final = frozenset({Role.REGULATOR, Role.REPLICA})


require = partial(require_role, ROLES)


def reads_all(caller: Identity) -> bool:
    """Whether results of others exist for the caller too."""
    return caller.role in _READS_ALL


def may_read(caller: Identity, result: ClaimResult) -> bool:
    """Whether a result exists for the caller."""
    return reads_all(caller) or caller.organisation in dict(parties_of(result))
