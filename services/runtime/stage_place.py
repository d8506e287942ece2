"""Where a stage stands in Kafka: its consumer group, and topics that are the network's own."""

from runtime.kafka import wait_for_topics
from runtime.network import Network
from runtime.publishing_cursor import wait_for_own_topics
from runtime.stage import AnyStage


def group_of(stage: AnyStage, network: Network | None) -> str:
    """The stage's consumer group; outside any network it is the stage's name."""
    return network.in_kafka(stage.name) if network else stage.name


async def wait_for_sources(stage: AnyStage, kafka: str, network: Network | None) -> None:
    """Returns when the stage's topics are there and are no other network's."""
    if network is None:
        await wait_for_topics(kafka, stage.topics)
    else:
        await wait_for_own_topics(kafka, network, stage.topics)
