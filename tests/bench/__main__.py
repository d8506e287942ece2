"""`make bench`: measures, prints a table, appends to .run/bench/figures.jsonl. Figures hold for the machine it runs on."""

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer

from cli.output import Output
from tests.bench.end_to_end import measure_end_to_end
from tests.bench.figures import Figure, append, commit_of, figure
from tests.bench.ordering import ordering_rate

ROOT = Path(__file__).resolve().parents[2]
UNITS = {
    "e2e_claims_per_s": "claims/s",
    "e2e_p50_ms": "ms",
    "e2e_p99_ms": "ms",
    "e2e_replica_kill_gap_ms": "ms",
    "ordering_claims_per_s": "claims/s",
    "disk_bytes_per_claim": "bytes",
}


def bench(
    runs: Annotated[int, typer.Option(min=1, max=20, help="how often each is measured")] = 1,
    only: Annotated[str, typer.Option(help="ordering or e2e; else both")] = "",
    rate: Annotated[float, typer.Option(min=0, help="first rate to try end to end; 0 probes")] = 0.0,
    run: Annotated[Path, typer.Option(help="where networks and figures are kept")] = ROOT / ".run" / "bench",
) -> None:
    """Measures on this machine, as it is."""
    out = Output()
    values: dict[str, list[float]] = defaultdict(list)
    for number in range(1, runs + 1):
        if only in {"", "ordering"}:
            out.say(f"run {number} of {runs}: ordering alone")
            values["ordering_claims_per_s"].append(ordering_rate(run / "ordering"))
        if only in {"", "e2e"}:
            out.say(f"run {number} of {runs}: end to end")
            _end_to_end(run / "e2e", out, rate, values)
    commit = commit_of(ROOT)
    figures = [figure(name, _unit(name), found, commit) for name, found in values.items()]
    append(run / "figures.jsonl", figures)
    _show(out, figures)
    out.say(f"appended to {run / 'figures.jsonl'}")


def _end_to_end(run: Path, out: Output, rate: float, values: dict[str, list[float]]) -> None:
    measured = measure_end_to_end(run, out, rate)
    values["e2e_claims_per_s"].append(measured.claims_per_s)
    values["e2e_p50_ms"].append(measured.p50_ms)
    values["e2e_p99_ms"].append(measured.p99_ms)
    values["e2e_replica_kill_gap_ms"].append(measured.kill_gap_ms)
    values["disk_bytes_per_claim"].append(measured.disk_bytes)
    for name, cpu_us in measured.cpu_us.items():
        values[f"cpu_us_per_claim.{name}"].append(cpu_us)
    for name, rss_mb in measured.rss_mb.items():
        values[f"rss_mb.{name}"].append(rss_mb)


def _unit(name: str) -> str:
    return UNITS.get(name) or ("µs" if name.startswith("cpu_us") else "MB")


def _show(out: Output, figures: list[Figure]) -> None:
    rows = [{"figure": f.name, "value": f.value, "unit": f.unit, "spread": f.spread, "runs": f.runs} for f in figures]
    out.table("measured", rows)


if __name__ == "__main__":
    typer.run(bench)
