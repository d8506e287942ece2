"""The first claims of a seed as one digest; a program too, for a process with another order of its sets."""

import hashlib
import sys
from itertools import islice

from cli.generator import Generator
from cli.world import make_world

TODAY = 20_500


def digest(seed: int) -> str:
    """Of who submits what as which case, in order."""
    told = hashlib.sha256()
    for planned in islice(Generator(make_world(1, TODAY, 60), seed), 300):
        body = planned.claim.SerializeToString(deterministic=True)
        told.update(f"{planned.submitter} {planned.planted} {len(body)}".encode() + body)
    return told.hexdigest()


if __name__ == "__main__":
    print(digest(int(sys.argv[1])))
