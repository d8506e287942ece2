"""`python -m validation`: edits and pricing for the payers that it is configured with."""

import asyncio
import time
from collections.abc import Sequence

from runtime.duplicate_tags import DuplicateTagger
from runtime.faust_stage import run_faust_stage
from runtime.log import configure_logging
from runtime.metrics import serve_metrics
from runtime.network import Network, load_network, organisation_directory
from runtime.pki import TlsFiles, load_signing_key
from runtime.process import announce, run_process
from runtime.reference_file import load_reference
from runtime.stage_runner import run_stage
from runtime.tenant_keys import TenantKeys
from validation.records import Issuer
from validation.settings import ValidationSettings
from validation.stage import Validation


def build(settings: ValidationSettings, network: Network) -> tuple[Validation, DuplicateTagger, TenantKeys]:
    """The stage with the keys and reference data of its payers."""
    payers: Sequence[str] = settings.validation_payers.split(",") if settings.validation_payers else network.payers
    references, issuers = {}, {}
    for payer in payers:
        place = organisation_directory(settings.run, payer)
        references[payer] = load_reference(place / "reference.json")
        key = load_signing_key(place / "pricing.ed25519")
        chain_id, rules = bytes.fromhex(network.chain_id), references[payer].rule_set_hash
        issuers[payer] = Issuer(payer, chain_id, rules, network.buckets, key.sign, network.topic_prefix)
    first = organisation_directory(settings.run, payers[0])
    tls = TlsFiles(first / "validation.pem", first / "validation.key", settings.run / "ca.pem")
    tagger = DuplicateTagger(network.tags_address, tls)
    stage = Validation(issuers, references, tagger.tags, lambda: time.time_ns() // 1_000_000)
    return stage, tagger, TenantKeys(settings.run, network, "validation", payers)


def main() -> None:
    settings = ValidationSettings()
    network = load_network(settings.run)
    kafka = settings.kafka or network.kafka
    stage, tagger, keys = build(settings, network)
    announce(
        "validation",
        topics=",".join(stage.topics),
        runner=settings.validation_runner,
        metrics=settings.metrics_port,
        kafka=kafka,
        reference=str(settings.run / "orgs"),
    )
    if settings.validation_runner == "faust":
        configure_logging("validation", settings.log_level, settings.log_format)
        serve_metrics(settings.metrics_port)
        data = str(settings.run / "data" / "validation")
        run_faust_stage(stage, kafka=kafka, keys=keys, network=network, data=data, drain_s=settings.drain_s)
        return

    async def run(stop: asyncio.Event) -> None:
        try:
            await run_stage(stage, kafka=kafka, keys=keys, network=network, stop=stop)
        finally:
            await tagger.close()

    run_process("validation", settings, run)


if __name__ == "__main__":
    main()
