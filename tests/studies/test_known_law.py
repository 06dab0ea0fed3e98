"""Planted truth for the whole pipeline: models that forget by a known law go through probe, stage, store, MLflow and
analysis, and their half-life and floor come back within their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

from analysis.decay.floors import floor_summary, floors
from analysis.decay.retention import half_lives, retention_curves
from analysis.runs.load import load_study
from analysis.runs.study import StudyData
from analysis.stats.scaling import by_size
from halflife.data.tokenizers import Bytes
from halflife.evaluation.probe import Setting
from halflife.evaluation.probes import Geometric, TaskProbe, due
from halflife.evaluation.scoring import named
from halflife.rng import generator
from halflife.store.plan import Plan
from halflife.store.run import run_stage
from halflife.store.stage import Context, Cost, Stage
from halflife.store.store import Store
from halflife.sweep.publishing import Publishing
from halflife.sweep.study import Study, Trial
from halflife.tasks.arithmetic import Addition
from halflife.tracking import schema
from halflife.tracking.publisher import Publisher
from tests.evaluation.test_synthetic import Knows

SIZES = {"30k": 30_000, "300k": 300_000}
SEEDS, STEPS, STEP = 5, 600, 1000
GAMMA, FLOOR, AT_DROP = 0.4, 0.3, 0.98
LANGUAGE = Addition(form="letters", modulus=20, seed=1)  # holds out 80 sums


def time(size: str, seed: int) -> float:
    """Steps in which what is not the floor halves."""
    return 12 * (SIZES[size] / 30_000) ** GAMMA * math.exp(0.05 * generator("noise", size, seed).normal())


@dataclass(frozen=True, kw_only=True)
class Forgets(Stage):
    """A stage whose model knows fewer and fewer items, each forgotten once: of what it had above chance the share left
    after t steps is FLOOR + (1 - FLOOR) 2 ** -(t / time). The answers are asked by the study's own probe."""

    kind: ClassVar[str] = "forgets"

    size: str
    seed: int
    role: str

    @property
    def cost(self) -> Cost:
        return Cost(tokens=STEPS * STEP, flops=1.0, memory_bytes=1.0, disk_bytes=1.0)

    def run(self, context: Context) -> dict[str, Any]:
        probe = TaskProbe(tasks=(LANGUAGE,), trials=80)
        measure = probe.prepare(Setting(tokenizer=Bytes(), results=context.results, sequence=32))
        rng, items = generator("items", self.size, self.seed), LANGUAGE.examples("held-out")
        # spread evenly, in a drawn order: which items are known is drawn, how many is the law's
        order = (rng.permutation(len(items)) + rng.random()) / len(items)
        for step in due(Geometric(), STEPS):
            left = {"absent": 0.0, "positive": 1.0}.get(self.role)
            if left is None:
                left = FLOOR + (1 - FLOOR) * 2 ** (-step / time(self.size, self.seed))
            share = LANGUAGE.chance + (AT_DROP - LANGUAGE.chance) * left
            known = {item.prompt: item.answer for item, at in zip(items, order, strict=True) if at < share}
            values = {named("dropped", name): value for name, value in measure(Knows(known)).items()}
            clocks = {
                "clock/steps": float(step),
                "clock/learning_rate_sum": 1e-3 * step,
                "clock/displacement": step / 1e4,
            }
            context.record(step * STEP, {**clocks, **values})
        return {"tokens": STEPS * STEP}


def study() -> Study:
    def trials() -> Iterator[Trial]:
        for size, parameters in SIZES.items():
            for seed in range(SEEDS):
                for role in ("treatment", "absent", "positive"):
                    axes = {"size": size, "parameters": parameters, "seed": seed}
                    stages = {"branch": Forgets(size=size, seed=seed, role=role)}
                    yield Trial(name=f"{size} · seed {seed} · {role}", parameters=axes, stages=stages, role=role)

    controls = [schema.Control(kind=role, label=role, role=role) for role in ("absent", "positive")]
    declaration = schema.Declaration(
        study="known_law", title="A known law", question="Does it come back?", reading="", preset="test", figures=(),
        axes=(schema.Axis(name="parameters", label="Model size", values=tuple(SIZES.values()), scale="log"),),
        outcomes=(schema.Outcome(name="skill", label="success", phase="branch", task="dropped"),),
        controls=(*controls, schema.Control(kind="null", label="none here", task="dropped")),
    )  # fmt: skip
    return Study(declaration=declaration, trials=tuple(trials()))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    folder = tmp_path_factory.mktemp("known")
    made, store, uri = study(), Store(folder), f"sqlite:///{folder / 'mlflow.db'}"
    plan = Plan(made.stages, store)
    publisher = Publisher(uri, experiment="known_law", description="", sweep=made.key, artifacts=folder / "artifacts")
    origin = {"command": "", "commit": "", "changes": None, "versions": {}}
    publishing = Publishing(made, plan, store, publisher, origin)
    publishing.update()
    while stage := plan.take():
        plan.completed(stage.key, run_stage(stage, store))
    publishing.update()
    publishing.finish("FINISHED", {})
    assert publisher.close(patience=300.0) == []
    return load_study(uri, "known_law")


@pytest.mark.slow
def test_the_half_life_comes_back_within_its_interval(published: StudyData) -> None:
    """By success and by log-probability: retention is a half where 2 ** -(t / T) is (1/2 - floor) / (1 - floor)."""
    steps_over_time = -math.log2((0.5 - FLOOR) / (1 - FLOOR))
    times = half_lives(retention_curves(published)).filter(pl.col("clock") == "tokens")
    for criterion in ("success", "logprob"):
        own = times.filter(pl.col("criterion") == criterion)
        assert set(own["kind"]) == {"observed"}
        for row in by_size(own).iter_rows(named=True):
            truth = steps_over_time * 12 * (row["parameters"] / 30_000) ** GAMMA * STEP
            assert row["seeds"] == SEEDS
            assert row["low"] < truth < row["high"], (criterion, row)
        for row in own.iter_rows(named=True):  # and each run's own lies between the evaluations around it, or nearly
            truth = steps_over_time * time(row["size"], row["seed"]) * STEP
            assert row["low"] / 1.25 < truth < row["high"] * 1.25


@pytest.mark.slow
def test_the_floor_comes_back_within_its_interval(published: StudyData) -> None:
    found = floor_summary(floors(retention_curves(published)), by=("size",))
    assert found.height == 4
    assert found["unsettled"].to_list() == [0] * 4
    for row in found.iter_rows(named=True):
        assert row["low"] < FLOOR < row["high"], row
        assert row["high"] - row["low"] < 0.1


@pytest.mark.slow
def test_a_model_that_never_learned_has_no_skill_and_one_that_kept_learning_keeps_it(published: StudyData) -> None:
    curves = retention_curves(published)
    absent, kept = (curves.filter(pl.col("role") == role) for role in ("absent", "positive"))
    assert not absent["implanted"].any()
    assert np.abs((absent["success"] - absent["chance"]).to_numpy()).max() < 0.02
    assert kept["retention_success"].to_numpy().min() == 1.0


@pytest.mark.slow
def test_what_was_measured_is_what_analysis_reads(published: StudyData) -> None:
    """Counts stay counts on the way through the store and MLflow."""
    trials = published.trials.filter(
        (pl.col("role") == "treatment") & (pl.col("size") == "30k") & (pl.col("seed") == 0)
    )
    points = published.points.filter(pl.col("trial") == trials["trial"][0])
    wide = points.pivot(on="name", index="step", values="value").sort("step")
    assert wide["step"].to_list() == [step * STEP for step in due(Geometric(), STEPS)]
    assert set(wide["dropped/trials"]) == {80.0}
    left = FLOOR + (1 - FLOOR) * 2 ** (-wide["step"].to_numpy() / STEP / time("30k", 0))
    share = LANGUAGE.chance + (AT_DROP - LANGUAGE.chance) * left
    assert np.abs(wide["dropped/hits"].to_numpy() - 80 * share).max() <= 1.0
    assert set(wide["dropped/chance"]) == {LANGUAGE.chance}
