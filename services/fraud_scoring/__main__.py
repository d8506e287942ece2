"""`python -m fraud_scoring`: scores the claims of the payers that it is configured with."""

import asyncio
import time
from collections.abc import Sequence

from fraud_scoring.settings import FraudSettings
from fraud_scoring.stage import FraudScoring, Scorer
from runtime.faust_stage import run_faust_stage
from runtime.log import configure_logging
from runtime.metrics import serve_metrics
from runtime.network import Network, load_network, organisation_directory
from runtime.pki import load_signing_key
from runtime.process import announce, run_process
from runtime.stage_runner import run_stage
from runtime.tenant_keys import TenantKeys


def build(settings: FraudSettings, network: Network) -> tuple[FraudScoring, TenantKeys]:
    """The stage with the scoring keys of its payers."""
    payers: Sequence[str] = settings.fraud_payers.split(",") if settings.fraud_payers else network.payers
    threshold_bp = round(settings.fraud_threshold * 10_000)
    scorers = {
        payer: Scorer(
            payer,
            network.buckets,
            threshold_bp,
            load_signing_key(organisation_directory(settings.run, payer) / "scoring.ed25519").sign,
            network.topic_prefix,
        )
        for payer in payers
    }
    stage = FraudScoring(scorers, lambda: time.time_ns() // 1_000_000)
    return stage, TenantKeys(settings.run, network, "fraud", payers)


def main() -> None:
    settings = FraudSettings()
    network = load_network(settings.run)
    kafka = settings.kafka or network.kafka
    stage, keys = build(settings, network)
    announce(
        "fraud-scoring",
        topics=",".join(stage.topics),
        runner=settings.fraud_runner,
        threshold=str(settings.fraud_threshold),
        metrics=settings.metrics_port,
        kafka=kafka,
    )
    if settings.fraud_runner == "faust":
        configure_logging("fraud-scoring", settings.log_level, settings.log_format)
        serve_metrics(settings.metrics_port)
        data = str(settings.run / "data" / "fraud-scoring")
        run_faust_stage(stage, kafka=kafka, keys=keys, network=network, data=data, drain_s=settings.drain_s)
        return

    async def run(stop: asyncio.Event) -> None:
        await run_stage(stage, kafka=kafka, keys=keys, network=network, stop=stop)

    run_process("fraud-scoring", settings, run)


if __name__ == "__main__":
    main()
