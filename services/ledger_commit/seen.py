"""Which entries were ordered lately, so that a retried one is not ordered again by every replica."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

SEEN_RECORDS: Final = 20_000


class SeenRecords:
    """Digests of records that were ordered lately, here or by another replica; bounded."""

    def __init__(self) -> None:
        self._digests: OrderedDict[bytes, None] = OrderedDict()

    def add(self, entries: Iterable[bytes]) -> None:
        for entry in entries:
            self._digests[hashlib.sha256(entry).digest()] = None
        while len(self._digests) > SEEN_RECORDS:
            self._digests.popitem(last=False)

    def __contains__(self, entry: bytes) -> bool:
        return hashlib.sha256(entry).digest() in self._digests
