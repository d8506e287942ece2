"""Which role may call which RPC of intake. On whose claims is the same for all: those of which the caller's
organisation is a party. Source: security.md, Identities and tenants."""

from functools import partial
from typing import Final

from runtime.identity import Role, require_role

_SUBMITTERS: Final = frozenset({Role.PROVIDER, Role.INSURER})
_READERS: Final = frozenset({Role.PROVIDER, Role.INSURER, Role.ANALYST})

ROLES: Final[dict[str, frozenset[Role]]] = {
    "SubmitClaim": _SUBMITTERS,
    "SubmitClaims": _SUBMITTERS,
    "GetClaim": _READERS,
    "ListClaims": _READERS,
    "TrackClaims": _READERS,
}


require = partial(require_role, ROLES)
