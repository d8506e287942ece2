"""From a request to a candidate for acceptance: reads the message, draws what is random, asks the clock, seals.

This is the edge at which a claim gets its reference, its salt and its day of receipt; afterwards nothing about it is
left to chance.
"""

import datetime
import os
from collections.abc import Callable, Mapping
from typing import Final
from zoneinfo import ZoneInfo

from claim_intake.envelope import seal
from claim_intake.intake import (
    FIRST_VERSION,
    Submission,
    canonical_bytes,
    client_key_findings,
    fingerprint,
    tenant_key,
)
from claim_intake.keyring import KeyRing
from claim_intake.store.accepting import Candidate
from claim_intake.wire import Findings, claim_of, unknown_fields
from claimledger.intake.v1 import intake_pb2
from claims.finding import Finding
from claims.identifiers import day_of
from claims.quick import quick
from runtime.network import Network
from runtime.topics import bucket_of

_DRAW_BYTES: Final = 16 + 32 + 56
"""claim_ref, salt, and what `seal` needs."""
_candidate = quick(Candidate)


class Acceptance:
    """Makes candidates. `zones` names each payer's time zone; UTC where it is silent."""

    def __init__(
        self,
        network: Network,
        keys: KeyRing,
        secret: bytes,
        zones: Mapping[str, str],
        clock_ms: Callable[[], int],
    ) -> None:
        self._payers = frozenset(network.payers)
        self._buckets = network.buckets
        self._chain_id = bytes.fromhex(network.chain_id)
        self._keys = keys
        self._secret = secret
        self._tenants: dict[str, bytes] = {}
        self._zones = {payer: ZoneInfo(zones.get(payer, "UTC")) for payer in self._payers}
        self._clock_ms = clock_ms

    def candidate(self, organisation: str, request: intake_pb2.SubmitClaimRequest) -> Candidate | list[Finding]:
        """The request as a candidate of the caller's organisation, or why it is none."""
        submission = self._submission(organisation, request)
        return submission if isinstance(submission, list) else self._sealed(submission)

    def _submission(self, organisation: str, request: intake_pb2.SubmitClaimRequest) -> Submission | list[Finding]:
        out = Findings()
        out.found += client_key_findings(request.client_key)
        unknown_fields(request, "", out)
        if out.found:
            return out.found
        claim = claim_of(request.claim)
        if isinstance(claim, list):
            return out.found + claim
        if claim.header.payer not in self._payers:
            out.add("intake.payer", "claim.header.payer", "is no payer of this network")
        canonical = canonical_bytes(claim)
        if isinstance(canonical, list):
            return out.found + canonical
        return out.found or Submission(organisation, request.client_key, claim, canonical)

    def _sealed(self, submission: Submission) -> Candidate:
        header, member_id = submission.claim.header, submission.claim.parties.patient.member_id
        draw = os.urandom(_DRAW_BYTES)
        claim_ref, salt = draw[:16], draw[16:48]
        now_ms = self._clock_ms()
        key = self._keys.current(header.payer, submission.organisation)
        return _candidate(
            fingerprint=fingerprint(self._tenant(submission.organisation), submission.client_key, submission.canonical),
            claim_ref=claim_ref,
            version=FIRST_VERSION,
            submitter=submission.organisation,
            payer=header.payer,
            bucket=bucket_of(header.payer.encode() + member_id.encode(), self._buckets),
            received_ms=now_ms,
            received_day=self._day(header.payer, now_ms),
            salt=salt,
            canonical=submission.canonical,
            sealed=seal(submission.canonical, claim_ref, FIRST_VERSION, self._chain_id, key, salt, draw[48:]),
            wrapping_key=key,
        )

    def _tenant(self, organisation: str) -> bytes:
        key = self._tenants.get(organisation)
        if key is None:
            key = self._tenants[organisation] = tenant_key(self._secret, organisation)
        return key

    def _day(self, payer: str, now_ms: int) -> int:
        """The calendar day of receipt in the payer's zone."""
        return day_of(datetime.datetime.fromtimestamp(now_ms / 1000, self._zones[payer]).date())
