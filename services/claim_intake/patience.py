"""What intake's parts on Kafka do where they cannot go on: they wait, say why, and connect again."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiokafka.errors import KafkaError

from runtime.topic_keys import SealedValueError

PAUSE_SECONDS: Final = 1.0


async def patiently(
    work: Callable[[], Awaitable[None]],
    log: Any,
    *,
    ends: type[KafkaError] | tuple[()] = (),
    told: Callable[[], Mapping[str, int]] = dict,
) -> None:
    """Does `work` again and again until cancelled; waits where the broker is away or a topic's key cannot be used.

    What `ends` names is raised, and so is any other error. `told` is logged beside a broker's absence.
    """
    while True:
        try:
            await work()
        except ends:
            raise
        except SealedValueError as error:
            log.error("cannot_seal", kind=error.kind, reason=str(error))  # noqa: TRY400 - waited out, not a mistake of ours
            await asyncio.sleep(PAUSE_SECONDS)
        except (KafkaError, OSError) as error:
            log.warning("broker_away", type=type(error).__name__, **told())
            await asyncio.sleep(PAUSE_SECONDS)
