"""Topic keys of a process that serves several tenants: each topic is opened with the keys of the tenant whose it is."""

from collections.abc import Sequence
from pathlib import Path

from runtime.network import Network, organisation_directory
from runtime.pki import load_hpke_key
from runtime.topic_keys import Sealer, TopicKeys, recipients_of


def service_keys(run: Path, network: Network, organisation: str, service: str) -> TopicKeys:
    """Topic keys as this service of this organisation opens and makes them, with its key from the run directory.

    Raises KeyFileError where that key is not here, or others can read it.
    """
    private = load_hpke_key(organisation_directory(run, organisation) / f"{service}.hpke")
    return TopicKeys(run / "keys" / "topics", f"{organisation}/{service}", private, recipients_of(network))


class TenantKeys(TopicKeys):
    """One `TopicKeys` for each tenant, chosen by the topic's name; `service` is the process's part in each tenant."""

    def __init__(self, run: Path, network: Network, service: str, tenants: Sequence[str]) -> None:
        held = {tenant: service_keys(run, network, tenant, service) for tenant in tenants}
        own = [topic for topic in network.topics() if topic.tenant in held]
        self._by_topic = {name: held[t.tenant] for t in own for name in (t.name, t.dead_letter_name)}

    def sealer(self, topic: str, schema: str) -> Sealer:
        return self._of(topic).sealer(topic, schema)

    def open(
        self, topic: str, key: bytes | None, schema: str, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> bytes:
        return self._of(topic).open(topic, key, schema, value, headers)

    def _of(self, topic: str) -> TopicKeys:
        """Raises KeyError for a topic of a tenant that this process does not serve."""
        return self._by_topic[topic]
