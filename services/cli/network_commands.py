"""certs, up, down, status, demo: a development network on loopback."""

import asyncio
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from cli.bootstrap import founding_transactions, load_world, make_certs, order
from cli.demo import Accounted, run_demo
from cli.options import ORGANISATION, RUN, Json, Kafka, Organisation, Replication, RunDirectory, TopicPrefix
from cli.output import Output
from cli.overview import consumer_rows, ends, process_rows, replica_rows
from cli.processes import SUPERVISOR, Processes
from cli.session import UsageError, open_session, read_network
from cli.supervised import supervise
from runtime.broker import BrokerSettings, LocalKafka, port_is_free
from runtime.development import require_certificates
from runtime.kafka import BROKERS_REPLICATION, delete_topics
from runtime.network import NETWORK_FILE, Network

BASE_PORT = 19100
FAMILIES = 400
DEMO_PORT = 19300
NETWORK_PORTS = 60
DEMO_FAMILIES = 60
DEMO_RUN = RUN / "demo"
DEMO_MARK = "demo"
"""The file that says that a run directory is a demo's, to be made anew."""
BUCKETS = 2

Families = Annotated[int, typer.Option(min=3, max=20_000, help="how many insured families to invent")]
Seed = Annotated[int, typer.Option(help="the same seed gives the same world; 0 draws one")]
BasePort = Annotated[
    int, typer.Option(min=1024, max=65000, envvar="CLAIMLEDGER_BASE_PORT", help="first of the network's 60 ports")
]
DemoPort = Annotated[
    int,
    typer.Option(
        min=1024,
        max=65000,
        envvar="CLAIMLEDGER_DEMO_BASE_PORT",
        help="first of the demo's 62 ports, Kafka's among them",
    ),
]


def certs(
    run: RunDirectory = RUN,
    families: Families = FAMILIES,
    seed: Seed = 1,
    base_port: BasePort = BASE_PORT,
    kafka: Kafka = "",
    topic_prefix: TopicPrefix = None,
    as_json: Json = False,
) -> None:
    """Make a development network: CA, certificates, keys, genesis, invented insured and providers."""
    address = kafka or broker_of(run).address
    seed = seed or 1 + secrets.randbelow(2**31)
    network = make_certs(run, seed, families, base_port, address, BUCKETS, chosen_prefix(kafka, topic_prefix))
    out = Output(as_json=as_json)
    document = {"run": str(run), "chain_id": network.chain_id, "kafka": network.kafka, "intake": network.intake_address}
    out.document(
        document | {"topic_prefix": network.topic_prefix},
        f"network {network.name} in {run}  chain id {network.chain_id}\n"
        f"intake {network.intake_address}  kafka {kafka_text(network)}  certificates and keys in {run}/orgs",
    )


def up(
    run: RunDirectory = RUN,
    families: Families = FAMILIES,
    base_port: BasePort = BASE_PORT,
    kafka: Kafka = "",
    topic_prefix: TopicPrefix = None,
    replication: Replication = BROKERS_REPLICATION,
    as_json: Json = False,
) -> None:
    """Start everything on loopback; what runs already is left as it is. It runs on, and what ends is started again."""
    out = Output(as_json=as_json)
    if not (run / NETWORK_FILE).exists():
        broker = broker_of(run)
        if not kafka and broker.process() is None:
            require_free([broker.port], "set CLAIMLEDGER_KAFKA_PORT")  # later the network has the port in its files
        made = make_certs(
            run, 1, families, base_port, kafka or broker.address, BUCKETS, chosen_prefix(kafka, topic_prefix)
        )
        out.say(f"made a development network in {run}, Kafka {kafka_text(made)}")
    require_prefix(run, topic_prefix)
    require_certificates(run)
    processes = Processes(run.resolve(), local_broker(run, kafka), replication=replication, elsewhere=kafka)
    if processes.kafka is not None and processes.kafka.process() is None:
        require_free([processes.kafka.port], f"make another network by --run: that in {run} has this port for Kafka")
    bring_up(processes, out)
    supervise(processes)
    out.say(f"{SUPERVISOR} started, log {processes.log(SUPERVISOR)}")
    intake = processes.network.intake_address
    document = {"intake": intake, "kafka": processes.kafka_address, "data": f"{run}/data", "logs": f"{run}/logs"}
    out.document(
        document,
        f"running. Intake {intake}, data {run}/data, logs {run}/logs\n"
        "try: claimledger load --claims 100    claimledger status    claimledger tail status",
    )


def bring_up(processes: Processes, out: Output) -> None:
    """Starts the processes, then publishes plans and enrols members where that has not been done."""
    processes.start_all(out.say)
    session = open_session(processes.run, ORGANISATION)
    founding = list(founding_transactions(processes.run, session.network, load_world(processes.run)))
    with out.progress() as bars, session.replica() as channel:
        bar = bars.add_task("plans and members on the ledger", total=len(founding), completed=0)
        order(channel, founding, lambda done: bars.update(bar, completed=done))
        bars.update(bar, completed=len(founding))


def down(run: RunDirectory = RUN, as_json: Json = False) -> None:
    """Stop what `up` started."""
    out = Output(as_json=as_json)
    stopped: list[str] = []

    def said(text: str) -> None:
        stopped.append(text)
        out.say(text)

    if (run / NETWORK_FILE).exists():
        Processes(run.resolve(), broker_of(run)).stop_all(said)
    out.document({"run": str(run), "stopped": len(stopped)}, "" if stopped else f"nothing runs in {run}")


def status(run: RunDirectory = RUN, org: Organisation = ORGANISATION, kafka: Kafka = "", as_json: Json = False) -> None:
    """Services, replicas, heights and lag at a glance; ends with 3 where something does not run."""
    out, session = Output(as_json=as_json), open_session(run, org)
    processes = Processes(run.resolve(), local_broker(run, kafka))
    rows = process_rows(processes)
    out.table("processes", rows)
    show_supervision(out, processes)
    out.table("replicas", replica_rows(session))
    out.table("consumers", consumer_rows(processes, kafka or session.network.kafka), empty="no broker answers")
    if not all(row["running"] and row["answers"] is not False for row in rows):
        raise typer.Exit(3)


def show_supervision(out: Output, processes: Processes) -> None:
    """What has ended by itself, and what the supervisor does not start again."""
    found = ends(processes)
    if found:
        out.table("ended by themselves", found)
    for row in found:
        if row["given_up"]:
            out.error(f"{row['ended']} cannot run and was given up: see the end of {row['log']}, then `claimledger up`")
    if processes.has_ended(SUPERVISOR):
        out.error(
            f"the supervisor has ended, so nothing is started again: see {processes.log(SUPERVISOR)}, then `claimledger up`"
        )


def demo(
    claims: Annotated[int, typer.Option(min=20, max=20_000, help="how many claims to load")] = 300,
    seed: Seed = 7,
    run: Annotated[Path, typer.Option(help="where the demo keeps its network, made anew each time")] = DEMO_RUN,
    base_port: DemoPort = DEMO_PORT,
    kafka: Kafka = "",
    topic_prefix: TopicPrefix = None,
    replication: Replication = BROKERS_REPLICATION,
    as_json: Json = False,
) -> None:
    """The main job from start to end: start everything, load claims, verify every proof offline, stop everything."""
    out = Output(as_json=as_json)
    broker = demo_broker(run, base_port, kafka)
    clear_demo(run, broker)
    ports = range(base_port, base_port + NETWORK_PORTS + (2 if broker else 0))
    require_free(ports, f"name other ports than {ports[0]} to {ports[-1]} by --base-port or CLAIMLEDGER_DEMO_BASE_PORT")
    prefix = chosen_prefix(kafka, topic_prefix)
    network = make_certs(
        run, seed, DEMO_FAMILIES, base_port, kafka or (broker.address if broker else ""), BUCKETS, prefix
    )
    (run / DEMO_MARK).touch()
    out.say(f"network, data and logs in {run.resolve()}, Kafka {kafka_text(network)}")
    processes = Processes(run.resolve(), broker, replication=replication)
    try:
        bring_up(processes, out)
        accounted = run_demo(run.resolve(), out, claims, seed)
    finally:
        processes.stop_all(lambda _: None)
        out.say("everything stopped")
        if broker is None:
            remove_topics(processes, out)
    conclude(out, accounted)


def remove_topics(processes: Processes, out: Output) -> None:
    """Deletes from a shared Kafka what the demo has made there, as far as it bears the demo's own prefix."""
    lead = processes.network.in_kafka("")
    made = [name for name in processes.made_topics if lead and name.startswith(lead)]
    if made:
        asyncio.run(delete_topics(processes.kafka_address, made))
        out.say(f"{len(made)} topics {lead}* deleted")


def chosen_prefix(kafka: str, topic_prefix: str | None) -> str | None:
    """What was asked for; else none in a Kafka of the network's own, and None, for one to be made, in a given one."""
    return topic_prefix if topic_prefix is not None or kafka else ""


def require_prefix(run: Path, topic_prefix: str | None) -> None:
    """Raises UsageError where the network has another prefix than what was asked for."""
    has = read_network(run).topic_prefix
    if topic_prefix is not None and topic_prefix != has:
        raise UsageError(
            f"the network in {run} has the topic prefix {has!r}, not {topic_prefix!r}: leave out --topic-prefix and "
            "CLAIMLEDGER_TOPIC_PREFIX, or make another network by --run"
        )


def kafka_text(network: Network) -> str:
    """Kafka's address, and what names there begin with."""
    return f"{network.kafka}{f', names begin with {network.topic_prefix}' if network.topic_prefix else ''}"


def conclude(out: Output, accounted: Accounted) -> None:
    """The demo's last line; ends with 1 where something is missing."""
    out.document(asdict(accounted), accounted.line)
    if not accounted.complete:
        raise typer.Exit(1)


def broker_of(run: Path) -> LocalKafka:
    """The local node of a run directory, on the ports of the environment."""
    settings = BrokerSettings()
    return LocalKafka(
        run.resolve() / "kafka", settings.kafka_port, settings.kafka_controller_port, settings.kafka_heap_mb
    )


def local_broker(run: Path, kafka: str) -> LocalKafka | None:
    """The local node that this run directory's network uses; None where its Kafka is elsewhere."""
    if kafka:
        return None
    network, local = read_network(run), broker_of(run)
    if not local.directory.exists():
        return local if network.kafka == local.address else None
    return replace(local, port=int(network.kafka.rpartition(":")[2]))


def clear_demo(run: Path, broker: LocalKafka | None) -> None:
    """Stops and removes an earlier demo's network. Raises UsageError for a network that no demo made."""
    if not (run / NETWORK_FILE).exists():
        return
    if run != DEMO_RUN and not (run / DEMO_MARK).exists():
        raise UsageError(f"{run} holds a network that no demo made, and a demo begins anew: name another --run")
    Processes(run.resolve(), broker).stop_all(lambda _: None)
    shutil.rmtree(run)


def demo_broker(run: Path, base_port: int, kafka: str) -> LocalKafka | None:
    """A node of the demo's own on the two ports behind the network's, unless Kafka is given."""
    if kafka:
        return None
    port = base_port + NETWORK_PORTS
    return LocalKafka(run.resolve() / "kafka", port, port + 1)


def require_free(ports: Iterable[int], remedy: str) -> None:
    """Raises UsageError naming the first of these ports that is taken, and what else can be done than to free it."""
    for port in ports:
        if not port_is_free(port):
            raise UsageError(f"port {port} is in use by another process: free it, or {remedy}")
