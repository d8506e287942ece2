"""Writes vectors.json anew: `PYTHONPATH=services:proto/python:. .venv/bin/python tests/unit/claims/make_vectors.py`.

Only for a layout that is new. A vector that has been released never changes: bytes on ledgers would no longer decode.
"""

import enum
import json
from itertools import count
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from claims.encoding import Ascii, Bytes, Fixed, Int, Many, Text
from claims.transaction import Kind
from tests.unit.claims.declared import codecs, hints_of, plain, structures

FIRST_MEMBERS = {Kind: 5}
"""Of enumerations that have grown: as many members as when the first vectors with them were made, which stay."""
VECTORS = Path(__file__).with_name("vectors.json")


class Sample:
    """Makes one value of any declared type: `least` is empty everywhere, `most` is at the bounds, `some` between."""

    def __init__(self, size: str) -> None:
        self.size = size
        self.numbers = count(1)

    def of(self, hint: Any) -> Any:
        if get_origin(hint) is Annotated:
            base, marker = get_args(hint)
            return self._marked(marker, base)
        if get_origin(hint) in {Union, UnionType}:
            (inner,) = (arg for arg in get_args(hint) if arg is not type(None))
            return None if self.size == "least" else self.of(inner)
        if hint is bool:
            return self.size != "least"
        if issubclass(hint, enum.IntEnum):
            members = list(hint)[: FIRST_MEMBERS.get(hint)]
            return members[{"least": 0, "some": next(self.numbers) % len(members), "most": -1}[self.size]]
        return hint(*(self.of(inner) for inner in hints_of(hint).values()))

    def _marked(self, marker: Any, base: Any) -> Any:
        match marker:
            case Int():
                return self._integer(marker)
            case Fixed():
                return self._bytes(marker.length) if self.size != "least" else bytes(marker.length)
            case Bytes():
                return self._bytes(min(marker.limit, {"least": 0, "some": 3, "most": 64}[self.size]))
            case Text():
                return {"least": "", "some": "éx" if marker.limit > 2 else "é", "most": "~" * marker.limit}[self.size]
            case Ascii():
                return {"least": "", "some": "a b"[: marker.limit], "most": "~" * marker.limit}[self.size]
            case Many():
                items = min(marker.limit, {"least": 0, "some": 2, "most": 1}[self.size])
                return tuple(self.of(get_args(base)[0]) for _ in range(items))
        raise TypeError(marker)

    def _integer(self, marker: Int) -> int:
        bits = 8 * marker.width
        match self.size, marker.signed:
            case "least", False:
                return 0
            case "least", True:
                return -(2 ** (bits - 1))
            case "most", signed:
                return int(2 ** (bits - signed) - 1)
        return next(self.numbers) % 2**7

    def _bytes(self, length: int) -> bytes:
        first = next(self.numbers)
        return bytes((first + i) % 256 for i in range(length))


def vectors() -> list[dict[str, Any]]:
    made = []
    for name, codec in codecs().items():
        for size in ("least", "some", "most"):
            value = Sample(size).of(structures()[name])
            made.append({"structure": name, "size": size, "hex": codec.encode(value).hex(), "value": plain(value)})
    return made


if __name__ == "__main__":
    VECTORS.write_text("[\n" + ",\n".join(json.dumps(v, ensure_ascii=False) for v in vectors()) + "\n]\n")
    print(f"{len(vectors())} vectors written to {VECTORS}")
