"""Which role may call which RPC of intake. On whose claims is the same for all: those of which the caller's
organisation is a party. Source: security.md, Identities and tenants."""

from typing import Final

from runtime.errors import PermissionDeniedError
from runtime.identity import Identity, Role

_SUBMITTERS: Final = frozenset({Role.PROVIDER, Role.INSURER})
_READERS: Final = frozenset({Role.PROVIDER, Role.INSURER, Role.ANALYST})

ROLES: Final[dict[str, frozenset[Role]]] = {
    "SubmitClaim": _SUBMITTERS,
    "SubmitClaims": _SUBMITTERS,
    "GetClaim": _READERS,
    "ListClaims": _READERS,
    "TrackClaims": _READERS,
}


def require(caller: Identity, rpc: str) -> None:
    """Raises PermissionDeniedError where the caller's role has no row for this RPC."""
    if caller.role not in ROLES[rpc]:
        raise PermissionDeniedError(f"role {caller.role.value} may not call {rpc}")
