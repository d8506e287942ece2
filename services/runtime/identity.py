"""Who calls: organisation and role out of the client's certificate, never out of a request's body; and who answers.

The certificate carries one URI name, `spiffe://claimledger/org/<id>/role/<role>`. That of a service that others call carries
its service's DNS name too. Nobody looks the name up: a client asks that the server prove it, wherever it answers, so that
one service's stolen certificate does not pass for another service.
Source: security.md, Identities and tenants.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from runtime.errors import PermissionDeniedError, UnauthenticatedError

TRUST_DOMAIN: Final = "claimledger"
SERVER_DOMAIN: Final = "claimledger.internal"
_PATTERN: Final = re.compile(rf"spiffe://{TRUST_DOMAIN}/org/([a-z0-9][a-z0-9-]{{0,62}})/role/([a-z]+)")


class Role(StrEnum):
    """What a certificate's holder may be."""

    INSURER = "insurer"
    PROVIDER = "provider"
    ANALYST = "analyst"
    REGULATOR = "regulator"
    REPLICA = "replica"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Identity:
    """An authenticated caller. `organisation` is 1 to 63 characters of a–z, 0–9 and the hyphen."""

    organisation: str
    role: Role

    @property
    def spiffe_id(self) -> str:
        return f"spiffe://{TRUST_DOMAIN}/org/{self.organisation}/role/{self.role.value}"


def server_name(service: str, organisation: str = "") -> str:
    """What the certificate of a service must be for; `organisation` where each has one of its own, as of replicas."""
    return ".".join(part for part in (service, organisation, SERVER_DOMAIN) if part)


def require_role(roles: Mapping[str, frozenset[Role]], caller: Identity, rpc: str) -> None:
    """Raises PermissionDeniedError where the caller's role is not in the RPC's row of a service's table."""
    if caller.role not in roles[rpc]:
        raise PermissionDeniedError(f"role {caller.role.value} may not call {rpc}")


def parse_spiffe_id(text: str) -> Identity:
    """Reads the URI name. Raises UnauthenticatedError for another trust domain, form or role."""
    match = _PATTERN.fullmatch(text)
    if match is None or match[2] not in set(Role):
        raise UnauthenticatedError(f"the certificate's name {text!r} is not {_PATTERN.pattern} with a known role")
    return Identity(match[1], Role(match[2]))


def identity_of(context: Any) -> Identity:
    """The caller of an RPC, from grpc's servicer context. Raises UnauthenticatedError without a certificate's name."""
    auth: dict[str, list[bytes]] = context.auth_context() or {}
    names = [name.decode("ascii", "replace") for name in auth.get("peer_spiffe_id", [])]
    if len(names) != 1:
        raise UnauthenticatedError("the client certificate must carry exactly one spiffe:// URI name")
    return parse_spiffe_id(names[0])
