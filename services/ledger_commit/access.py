"""Which role may call which RPC of LedgerService, and whose results it sees. Source: security.md, Identities and tenants.

PeerService has one rule for all of its RPCs, which is with it: replicas of the committee and nobody else.
"""

from typing import Final

from claims.result import ClaimResult
from ledger_commit.publications import parties_of
from runtime.errors import PermissionDeniedError
from runtime.identity import Identity, Role

_ALL: Final = frozenset(Role)

ROLES: Final[dict[str, frozenset[Role]]] = {
    "SubmitTransaction": _ALL - {Role.ANALYST},  # an analyst decides through the payer's own systems
    "GetTransaction": _ALL,
    "GetStatus": _ALL,
    "GetBlock": _ALL,
    "ListBlocks": _ALL,
    "GetSettlement": _ALL,
    "SubscribeSettlements": _ALL,
}
_READS_ALL: Final = frozenset({Role.REGULATOR, Role.REPLICA})


def require(caller: Identity, rpc: str) -> None:
    """Raises PermissionDeniedError where the caller's role has no place in the RPC's row."""
    if caller.role not in ROLES[rpc]:
        raise PermissionDeniedError(f"role {caller.role.value} may not call {rpc}")


def reads_all(caller: Identity) -> bool:
    """Whether results of others exist for the caller too."""
    return caller.role in _READS_ALL


def may_read(caller: Identity, result: ClaimResult) -> bool:
    """Whether a result exists for the caller."""
    return reads_all(caller) or caller.organisation in dict(parties_of(result))
