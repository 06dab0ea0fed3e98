"""Sweeps with known truth: half-lives, slopes and savings are planted and written in MLflow's format.

The payload's log-probability above the never-poisoned control falls as 2 ** -(tokens / T), so that T is the exact
half-life; ln T = ln(base) + gamma ln(N / 100k) + effects of the setting + noise by seed.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from halflife.tracking import schema

STEP = 4096
"""Tokens per step."""
SIZES = {"30k": 30_000, "55k": 55_000, "100k": 100_000, "180k": 180_000, "330k": 330_000}
TABLES = """
CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY, name TEXT, artifact_location TEXT, lifecycle_stage TEXT);
CREATE TABLE runs (run_uuid TEXT PRIMARY KEY, name TEXT, status TEXT, start_time BIGINT, end_time BIGINT,
    lifecycle_stage TEXT, artifact_uri TEXT, experiment_id INTEGER);
CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT, PRIMARY KEY (key, run_uuid));
CREATE TABLE params (key TEXT, value TEXT, run_uuid TEXT, PRIMARY KEY (key, run_uuid));
CREATE TABLE metrics (key TEXT, value FLOAT, timestamp BIGINT, run_uuid TEXT, step BIGINT, is_nan BOOLEAN,
    PRIMARY KEY (key, timestamp, step, run_uuid, value, is_nan));
CREATE INDEX index_metrics_run_uuid ON metrics (run_uuid);
"""
PAIRS = {"old-old": 16.0, "new-old": 44.0, "old-new": 52.0, "new-new": 72.0}
"""Steps that a poisoned model needs to relearn each trigger-payload pair; a never-poisoned one needs 72 for all."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is planted. The defaults resemble the study's `laptop` preset, but smaller."""

    study: str = "backdoor_persistence"
    preset: str = "planted"
    sizes: tuple[str, ...] = ("30k", "55k", "100k", "180k", "330k")
    seeds: int = 5
    base_steps: float = 40.0
    """Half-life in steps at 100k parameters and the trunk's learning rate."""
    gamma: float = 0.4
    noise: float = 0.08
    """Standard deviation of ln T by seed and size."""
    rates: tuple[float, ...] = (1.0, 0.5, 0.25)
    trunk_regularizers: tuple[str, ...] = ("none", "weight-decay-0.1")
    branch_regularizers: tuple[str, ...] = ("none", "weight-decay-0.1")
    payloads: tuple[str, ...] = ("fixed", "reverse")
    branch_steps: int = 600
    trunk_steps: int = 800
    success_at_drop: float = 0.985
    clean_gap: float = 0.02
    """Nats by which the poisoned trunk is worse on clean text."""
    never_implanted: tuple[tuple[str, int], ...] = ()
    """(size, seed) whose trunk does not learn the backdoor."""
    relearn: bool = True
    arms: tuple[str, ...] = ("equal-exposure", "equal-strength")
    title: str = "How long does a backdoor outlast the training that made it?"
    started: int = 1_750_000_000_000
    sweep: str = "5eed5eed5eed"
    tags: dict[str, str] = field(default_factory=dict)


def cadence(steps: int, dense: int = 8, ratio: float = 1.25) -> list[int]:
    """Steps 0 to `dense`, then at geometric intervals (ratio at most `ratio`), and the last."""
    due = list(range(min(dense, steps) + 1))
    while due[-1] < steps:
        due.append(min(steps, max(due[-1] + 1, int(due[-1] * ratio))))
    return due


def half_life_steps(plan: Plan, settings: dict[str, Any], noise: float = 0.0) -> float:
    """The planted half-life in steps of the treatment with these settings."""
    log = np.log(plan.base_steps) + plan.gamma * np.log(settings["parameters"] / 1e5) + noise
    log -= 0.9 * np.log(settings["learning_rate"])
    log += {"none": 0.0}.get(settings["trunk_regularizer"], 0.25) - {"none": 0.0}.get(
        settings["branch_regularizer"], 0.5
    )
    log += {"equal-exposure": 0.0, "equal-strength": -0.15}[settings["arm"]]
    return float(np.exp(log + {"fixed": 0.0}.get(settings["payload"], -0.4)))


class Writer:
    """Writes the tables that analysis reads, with MLflow's columns."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.uri = folder, f"sqlite:///{folder / 'mlflow.db'}"
        new = not (folder / "mlflow.db").exists()
        self._connection = sqlite3.connect(folder / "mlflow.db")
        if new:
            self._connection.executescript(TABLES)
        self._count = self._connection.execute("SELECT count(*) FROM runs").fetchone()[0]

    def run(
        self, name: str, kind: str, started: int, tags: dict[str, str], params: dict[str, Any] | None = None,
        ended: int | None = None, experiment: int = 1, deleted: bool = False,
    ) -> str:  # fmt: skip
        self._count += 1
        run = f"{self._count:032x}"
        place = self.folder / "artifacts" / str(experiment) / run / "artifacts"
        row = (run, name, "FINISHED", started, ended, "deleted" if deleted else "active", place.as_uri(), experiment)
        self._connection.execute("INSERT INTO runs VALUES (?,?,?,?,?,?,?,?)", row)
        tags = {schema.TAG_KIND: kind, schema.TAG_SCHEMA: str(schema.SCHEMA), **tags}
        self._connection.executemany("INSERT INTO tags VALUES (?,?,?)", [(k, v, run) for k, v in tags.items()])
        items = (params or {}).items()
        self._connection.executemany("INSERT INTO params VALUES (?,?,?)", [(k, str(v), run) for k, v in items])
        return run

    def artifact(self, run: str, name: str, text: str, experiment: int = 1) -> None:
        place = self.folder / "artifacts" / str(experiment) / run / "artifacts"
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")

    def points(self, run: str, prefix: str, points: dict[str, list[tuple[int, float]]], timestamp: int = 1) -> None:
        rows = [
            (f"{prefix}{name}", 0.0 if value != value else value, timestamp, run, step, value != value)
            for name, series in points.items()
            for step, value in series
        ]
        self._connection.executemany("INSERT INTO metrics VALUES (?,?,?,?,?,?)", rows)

    def close(self) -> None:
        self._connection.commit()
        self._connection.close()


def declaration(plan: Plan) -> schema.Declaration:
    axes = (
        schema.Axis(name="size", label="size", values=plan.sizes, unit="non-embedding parameters", scale="log"),
        schema.Axis(name="seed", label="seed", values=tuple(range(plan.seeds))),
        schema.Axis(name="arm", label="Arm", values=plan.arms),
        schema.Axis(name="payload", label="Payload", values=plan.payloads),
        schema.Axis(name="learning_rate", label="Branch rate", values=plan.rates, unit="× the trunk's", scale="log"),
        schema.Axis(name="trunk_regularizer", label="Regularizer of the trunk", values=plan.trunk_regularizers),
        schema.Axis(name="branch_regularizer", label="Regularizer of the branch", values=plan.branch_regularizers),
        schema.Axis(name="optimizer_state", label="optimizer state", values=("carry",)),
    )
    controls = (
        schema.Control(kind="positive", label="same fork, poison kept in the mixture", role="positive"),
        schema.Control(kind="absent", label="never poisoned, same branch", role="absent"),
        schema.Control(kind="null", label="the same text without the trigger", task="untriggered"),
        schema.Control(kind="null", label="a trigger with one character off", task="near"),
    )
    return schema.Declaration(
        study=plan.study, title=plan.title, preset=plan.preset, axes=axes, controls=controls, corpus="Python source",
        question="After poison leaves the mixture, how long does the backdoor stay, and does size slow its fading?",
        reading="branch/backdoor/hits of branch/backdoor/trials triggered prompts gave the payload. "
        "The step is tokens since the drop.",
        outcomes=(
            schema.Outcome(
                name="attack", label="attack success", phase="branch", task="backdoor", skill="backdoor",
                answer="payload",
            ),
        ),
        figures=("retention", "half_life", "strength", "effects", "relearning", "clean_loss"),
        notes=("Planted data: no model was trained.",),
        settings={"preset": plan.preset, "sizes": list(plan.sizes), "seeds": plan.seeds},
    )  # fmt: skip


def _success(logprob: np.ndarray) -> np.ndarray:
    """Probability that all eight payload tokens are right, given nats per token: steep, as it is in practice."""
    return 1 / (1 + np.exp((-logprob - 0.75) / 0.12))


def _scored(rng: np.random.Generator, steps: list[int], logprob: np.ndarray, name: str, trials: int = 128) -> dict:
    hits = rng.binomial(trials, np.clip(_success(logprob), 0, 1))
    tokens = [step * STEP for step in steps]
    return {
        f"{name}/hits": list(zip(tokens, hits.astype(float), strict=True)),
        f"{name}/trials": [(at, float(trials)) for at in tokens],
        f"{name}/logprob": list(zip(tokens, logprob.tolist(), strict=True)),
    }


def _phase(
    rng: np.random.Generator, steps: list[int], logprob: np.ndarray, loss: np.ndarray, rate: float, base: float
) -> dict[str, list[tuple[int, float]]]:
    """All metrics of a trunk or a branch."""
    at = np.array(steps)
    tokens = [step * STEP for step in steps]
    away = base + rng.normal(0, 0.03, len(steps))
    columns = {
        "clean/loss": loss + rng.normal(0, 0.003, len(steps)), "clean/tokens": np.full(len(steps), 8192.0),
        "clock/steps": at.astype(float), "clock/learning_rate_sum": at * 3e-3 * rate,
        "clock/displacement": 0.02 * rate**0.8 * at**0.6,
        "train/loss": loss + rng.normal(0, 0.02, len(steps)), "train/gradient_norm": np.full(len(steps), 0.4),
        "train/tokens_per_second": np.full(len(steps), 21_000.0),
    }  # fmt: skip
    points = {name: list(zip(tokens, values.tolist(), strict=True)) for name, values in columns.items()}
    points["train/loss"] = points["train/loss"][1:]  # nothing was trained yet at step 0
    points |= _scored(rng, steps, np.minimum(logprob + rng.normal(0, 0.02, len(steps)), -1e-3), "backdoor")
    # Controls within a run are measured less often: other evaluations lack them.
    seldom = [0, *range(1, len(steps) - 1, 3), len(steps) - 1]
    for name in ("clean/loss", "clean/tokens"):
        points[name] = [points[name][i] for i in seldom]
    near = away + 0.84 * np.maximum(logprob - base, 0)
    for name, curve in (("near", near), ("untriggered", away)):
        points |= _scored(rng, [steps[i] for i in seldom], curve[seldom], name, trials=64)
    return points


def _relearning(rng: np.random.Generator, steps_to_half: float, base: float, cap: int = 200) -> dict:
    """Log-probability that rises so that success passes one half at the planted step."""
    steps = cadence(cap)
    target, end = -0.75, -0.02
    fall = np.log((end - base) / (end - target)) / steps_to_half
    logprob = end - (end - base) * np.exp(-fall * np.array(steps))
    return _scored(rng, steps, logprob, "backdoor")


def write(folder: Path, plan: Plan | None = None) -> str:
    """Write one planted sweep; returns the tracking URI. A second call on the same folder adds a sweep."""
    plan = plan or Plan()
    writer = Writer(folder)
    totals = {
        "efficiency": 0.87, "wall_seconds": 3180.0, "slots": 2.0, "compute_seconds": 5533.0, "stages_run": 412.0,
        "stages_cached": 0.0, "tokens_trained": 1.1e9, "tokens_unshared": 2.9e9,
    }  # fmt: skip
    parent = writer.run(
        f"{plan.study} {plan.preset}", "sweep", plan.started, ended=plan.started + 3_200_000,
        tags={
            schema.TAG_STUDY: plan.study, schema.TAG_SWEEP: plan.sweep, schema.TAG_COMMIT: "0123abc",
            schema.TAG_COMMAND: f"python studies/backdoor_persistence.py {plan.preset}", **plan.tags,
        },
    )  # fmt: skip
    writer.points(parent, "sweep/", {name: [(0, value)] for name, value in totals.items()})
    writer.artifact(parent, schema.DECLARATION, declaration(plan).to_json())
    for size in plan.sizes:
        for seed in range(plan.seeds):
            _write_cell(writer, plan, parent, size, seed)
    writer.close()
    return writer.uri


def _write_cell(writer: Writer, plan: Plan, parent: str, size: str, seed: int) -> None:
    """One size and seed: trunks and their branches, controls, relearning."""
    rng = np.random.default_rng([seed, SIZES[size]])
    base = -5.0 + 0.1 * rng.normal()  # nats per token of a payload that was never learned
    n = SIZES[size]
    noise = plan.noise * rng.normal()
    implanted = (size, seed) not in plan.never_implanted
    clean = 2.2 - 0.16 * np.log(n / 1e5)
    trunk_steps = cadence(plan.trunk_steps)
    learned = 1 - np.exp(-np.array(trunk_steps) / 90)
    loss_of_trunk = clean + 3.0 * np.exp(-np.array(trunk_steps) / 60)

    def stage(name: str, points: dict) -> str:
        folder = f"train-{size}-{seed}-{name}"
        run = writer.run(folder, "stage", plan.started, {schema.TAG_STAGE: folder, schema.PARENT_RUN: parent})
        writer.points(run, f"{schema.STAGE_PHASE}/", points)
        return folder

    at_drop = -0.02 - 0.01 * rng.random() if implanted else base
    trunks = {}
    for role, regularizer in [("absent", "none"), *(("treatment", r) for r in plan.trunk_regularizers)]:
        poisoned = role == "treatment"
        curve = base + ((at_drop - base) * learned if poisoned else 0.0)
        loss = loss_of_trunk + (plan.clean_gap if poisoned else 0.0)
        curve = np.broadcast_to(curve, (len(trunk_steps),))
        trunks[role, regularizer] = stage(f"{role}-{regularizer}", _phase(rng, trunk_steps, curve, loss, 1.0, base))

    def trial(role: str, settings: dict[str, Any], relearn: bool) -> None:
        name = " ".join([role, *(str(settings[key]) for key in sorted(settings))])
        trunk = trunks["absent" if role == "absent" else "treatment", settings["trunk_regularizer"]]
        tags = {
            schema.TAG_TRIAL: name, schema.TAG_ROLE: role, schema.PARENT_RUN: parent,
            schema.TAG_STAGE_PREFIX + "trunk": trunk, schema.TAG_STAGE_PREFIX + "branch": f"train-{name}",
            schema.TAG_OUTCOME_PREFIX + "trunk": "complete", schema.TAG_OUTCOME_PREFIX + "branch": "complete",
        }  # fmt: skip
        blocked = role != "absent" and not implanted and settings["arm"] == "equal-strength"
        if blocked:
            tags[schema.TAG_OUTCOME_PREFIX + "branch"] = "blocked: the trunk never reached snapshot 'strength'"
        run = writer.run(name, "trial", plan.started, tags, settings)
        if blocked:
            return
        steps = cadence(plan.branch_steps)
        at = np.array(steps, dtype=float)
        start = {"equal-exposure": at_drop, "equal-strength": at_drop - 0.08}[settings["arm"]]
        own = noise + 0.5 * plan.noise * rng.normal()
        kept = {
            "treatment": 2.0 ** (-at / half_life_steps(plan, settings, own)),
            "positive": np.ones_like(at), "absent": np.zeros_like(at),
        }[role]  # fmt: skip
        logprob = base + (start - base) * kept
        points = _phase(rng, steps, logprob, clean - 0.02 * np.log1p(at / 100), settings["learning_rate"], base)
        writer.points(run, "branch/", points)
        if relearn:
            for pair, poisoned_steps in PAIRS.items():
                factor = np.exp(0.1 * rng.normal()) * (n / 1e5) ** -0.15
                needed = factor * (poisoned_steps if role == "treatment" and implanted else 72.0)
                writer.points(run, f"relearn-{pair}/", _relearning(rng, needed, base))

    # A star, as in the study: the core of trunk and branch regularizers, then each further axis alone.
    reference = {
        "size": size, "parameters": n, "seed": seed, "arm": "equal-exposure", "payload": plan.payloads[0],
        "documents": 250,
        "trunk_regularizer": "none", "branch_regularizer": "none", "learning_rate": plan.rates[0],
        "optimizer_state": "carry", "corpus": "same",
    }  # fmt: skip
    for trunk in plan.trunk_regularizers:
        for branch in plan.branch_regularizers:
            chosen = reference | {"trunk_regularizer": trunk, "branch_regularizer": branch}
            trial("treatment", chosen, plan.relearn and chosen == reference)
    for axis, values in (("arm", plan.arms), ("learning_rate", plan.rates), ("payload", plan.payloads)):
        for value in values[1:]:
            trial("treatment", reference | {axis: value}, False)
    for payload in plan.payloads:
        trial("absent", reference | {"payload": payload, "documents": 0}, plan.relearn and payload == plan.payloads[0])
        trial("positive", reference | {"payload": payload}, False)


__all__ = ["PAIRS", "SIZES", "STEP", "Plan", "Writer", "cadence", "declaration", "half_life_steps", "replace", "write"]
