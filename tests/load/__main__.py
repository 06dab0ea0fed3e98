"""`python -m tests.load`: the overhead per stage, from thousands of tiny stages through plan, Tune, store and MLflow.

The trainer is a fake that takes 10 ms. CPU time is reported as well as wall time, as the machine may be busy.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import tyro
from rich.console import Console
from rich.table import Table

from halflife.store.plan import Plan
from halflife.store.run import run_stage
from halflife.store.stage import Outcome
from halflife.store.store import Store
from halflife.sweep.launch import run
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study
from tests.load.sampling import Sampler, Span, free_port
from tests.sweep.fakes import Fake
from tests.sweep.helpers import study

TRAINING = 0.01
"""Duration of the fake trainer in seconds."""
MOST_MS, MOST_UI_SECONDS, MOST_GROWTH = 250.0, 2.0, 0.15
"""Targets: wall time per stage; time per UI page; relative growth of memory over the last three quarters."""
DONE = Outcome(status="complete", attempt="", summary={})
REPEATS = 3
WITHOUT_RAY = 100
"""Number of stages for timing the store without Ray."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    stages: int = 2000
    """In total: one trunk per nine branches."""
    slots: int = 2
    json: Path | None = None
    """Write the numbers to this file."""


def main(settings: Settings) -> int:
    console, folder = Console(highlight=False), Path(tempfile.mkdtemp(prefix="halflife-load-"))
    try:
        found = measured(settings, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    missed = show(found, console)
    if settings.json:
        settings.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return int(missed)


def measured(settings: Settings, folder: Path) -> dict[str, dict[str, float]]:
    """By part: wall and CPU milliseconds per stage; and the other measurements that have a target."""
    trunks = max(1, settings.stages // 10)
    made = study(trunks, 9, seconds=TRAINING)
    count, found = len(made.stages), {}
    found["plan"] = plan_of(made, folder / "planned").each(count)
    found["store"] = store_alone(made, folder / "stored").each(WITHOUT_RAY, less=TRAINING)
    site = ExecutionSite(results=folder / "results", device="cpu", max_concurrent=settings.slots)
    with Sampler(here=site.results) as sampler:
        report = run(made, site, Console(quiet=True))
    if report.run != count or report.unpublished:
        raise SystemExit(f"of {count} stages {report.run} were run, unpublished: {report.unpublished[:2]}")
    found["the whole sweep"] = sampler.span.each(count)
    found["memory"] = sampler.memory(count)
    again = ExecutionSite(results=folder / "results", device="cpu", tracking_uri=f"sqlite:///{folder / 'again.db'}")
    with timing() as span:
        run(made, again, Console(quiet=True))  # everything is computed: the time is that of publishing
    found["MLflow"] = span.each(count)
    rest = {kind: found["the whole sweep"][kind] for kind in ("wall_ms", "cpu_ms")}
    parts = ("plan", "store", "MLflow")
    found["Tune"] = {kind: value - sum(found[part][kind] for part in parts) for kind, value in rest.items()}
    found["browser"] = browser(folder / "results")
    return found


@contextmanager
def timing() -> Iterator[Span]:
    """Wall and CPU seconds of this process."""
    span, wall, cpu = Span(), time.monotonic(), time.process_time()
    yield span
    span.wall, span.cpu = time.monotonic() - wall, time.process_time() - cpu


def plan_of(made: Study, folder: Path) -> Span:
    store = Store(folder)
    store.prepare()
    with timing() as span:
        plan = Plan(made.stages, store)
        while stage := plan.take():
            plan.completed(stage.key, DONE)
    return span


def store_alone(made: Study, folder: Path) -> Span:
    """Run stages one after another in this process."""
    store = Store(folder)
    store.prepare()
    (folder / "runs").mkdir()
    stages = [stage for stage in made.stages if isinstance(stage, Fake)][:WITHOUT_RAY]
    run_stage(stages[0], store)  # imports polars
    shutil.rmtree(folder / "stages")
    store.prepare()
    with timing() as span:
        for stage in stages:
            run_stage(stage, store)
    return span


def browser(results: Path) -> dict[str, float]:
    """Seconds that MLflow's server takes for the requests of its pages: experiments, runs, one run's metrics."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(
        [*command, "--backend-store-uri", f"sqlite:///{results / 'mlflow.db'}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"{address}/health")
        api = f"{address}/ajax-api/2.0/mlflow"
        slowest, before = 0.0, cpu_of(server)
        for _ in range(REPEATS):
            first = ask(f"{api}/experiments/search", {"max_results": 100})
            ids = [entry["experiment_id"] for entry in first["experiments"]]
            began = time.monotonic()
            page = ask(f"{api}/runs/search", {"experiment_ids": ids, "max_results": 100})
            slowest = max(slowest, time.monotonic() - began)
            one = page["runs"][0]
            began = time.monotonic()
            for metric in one["data"].get("metrics", [])[:4]:
                ask(f"{api}/metrics/get-history?run_id={one['info']['run_id']}&metric_key={metric['key']}")
            slowest = max(slowest, time.monotonic() - began)
        return {"seconds": slowest, "cpu_seconds": (cpu_of(server) - before) / REPEATS}
    finally:
        server.terminate()
        server.wait()


def cpu_of(server: subprocess.Popen[bytes]) -> float:
    """CPU seconds of the server and its workers."""
    root = psutil.Process(server.pid)
    return sum(sum(process.cpu_times()[:2]) for process in (root, *root.children(recursive=True)))


def ask(address: str, body: dict[str, object] | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def wait_for(address: str, seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def show(found: dict[str, dict[str, float]], console: Console) -> bool:
    """Print the measurements. Returns whether a target was missed."""
    table = Table("part", "wall, ms per stage", "CPU, ms per stage")
    for part in ("plan", "Tune", "store", "MLflow", "the whole sweep"):
        table.add_row(part, f"{found[part]['wall_ms']:.1f}", f"{found[part]['cpu_ms']:.1f}")
    console.print(table)
    whole, memory, page = found["the whole sweep"]["wall_ms"], found["memory"], found["browser"]["seconds"]
    console.print(
        f"driver {memory['first_mb']:.0f} MB after a quarter of the stages, {memory['last_mb']:.0f} MB at the end; the "
        f"largest actor {memory['actor_first_mb']:.0f} and {memory['actor_last_mb']:.0f} MB"
    )
    console.print(f"a page of MLflow's UI: at most {page:.2f} s, {found['browser']['cpu_seconds']:.2f} s of CPU")
    missed = [
        name
        for name, reached in {
            f"a stage in {MOST_MS:.0f} ms": whole <= MOST_MS,
            f"memory within {MOST_GROWTH:.0%}": max(memory["growth"], memory["actor_growth"]) <= MOST_GROWTH,
            f"a page in {MOST_UI_SECONDS:.0f} s": page <= MOST_UI_SECONDS,
        }.items()
        if not reached
    ]
    console.print(f"missed: {', '.join(missed)}" if missed else "all targets met")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
