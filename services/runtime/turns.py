"""Long work on the loop, in slices: between two of them all else has a turn."""

import asyncio
import time


class Turns:
    """`give` returns at once until the work has held the loop for `slice_s`, and then behind everybody else."""

    def __init__(self, slice_s: float) -> None:
        self._slice_s = slice_s
        self._until = time.perf_counter() + slice_s

    async def give(self) -> None:
        if time.perf_counter() >= self._until:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + self._slice_s
