"""Wrapping keys in use, and the ones that intake opened again to send an overdue claim."""

import os
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from claim_intake.envelope import Recipient, WrappingKey, new_wrapping_key, open_wrapping_key
from runtime.network import Network

LIFE_MS: Final = 10_000
"""A wrapping key serves new claims for this long at most."""
MAX_CLAIMS: Final = 1_024
"""And for this many at most."""
MAX_OPENED: Final = 4_096
"""Keys kept open for claims that are read back."""
_STORAGE_SERVICES: Final = ("client", "intake", "validation")
"""Where a payer's copy of the key goes: its own systems, else the first of its services that has an endpoint."""


class KeyRing:
    """Hands out wrapping keys. Intake itself is a recipient of each, under `organisation`/intake."""

    def __init__(
        self, network: Network, organisation: str, private: X25519PrivateKey, clock_ms: Callable[[], int]
    ) -> None:
        self._endpoints = {(e.organisation, e.service): e.hpke_public for e in network.endpoints}
        self._organisation = organisation
        self._private = private
        self._clock_ms = clock_ms
        self._current: dict[tuple[str, str], tuple[WrappingKey, int, int]] = {}
        self._opened: dict[bytes, WrappingKey] = {}

    def current(self, payer: str, submitter: str) -> WrappingKey:
        """The key for a new claim; a fresh one where the last has served its time."""
        now_ms = self._clock_ms()
        key, until_ms, left = self._current.get((payer, submitter), (None, 0, 0))
        if key is None or now_ms >= until_ms or left == 0:
            key, until_ms, left = self._fresh(payer, submitter), now_ms + LIFE_MS, MAX_CLAIMS
        self._current[payer, submitter] = (key, until_ms, left - 1)
        return key

    def opened(self, key_id: bytes, payer: str, submitter: str, wraps: bytes) -> WrappingKey:
        """A stored key, opened with intake's own private key. Raises EnvelopeError."""
        key = self._opened.get(key_id)
        if key is None:
            key = open_wrapping_key(key_id, payer, submitter, wraps, self._organisation, "intake", self._private)
            if len(self._opened) >= MAX_OPENED:
                self._opened.pop(next(iter(self._opened)))
            self._opened[key_id] = key
        return key

    def _fresh(self, payer: str, submitter: str) -> WrappingKey:
        draw = os.urandom(48)
        return new_wrapping_key(draw[:16], draw[16:], payer, submitter, self._recipients(payer, submitter))

    def _recipients(self, payer: str, submitter: str) -> tuple[Recipient, ...]:
        own = Recipient(self._organisation, "intake", self._private.public_key())
        places = [self._payer_storage(payer), (submitter, "client")]
        found = {place: self._endpoints[place] for place in places if place in self._endpoints}
        found.pop((self._organisation, "intake"), None)
        others = (Recipient(*place, X25519PublicKey.from_public_bytes(bytes.fromhex(k))) for place, k in found.items())
        return (own, *others)

    def _payer_storage(self, payer: str) -> tuple[str, str]:
        known = ((payer, s) for s in _STORAGE_SERVICES if (payer, s) in self._endpoints)
        return next(known, (payer, ""))
