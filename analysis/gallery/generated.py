"""Generated data with known ground truth, identical on every machine, for the gallery and for tests.

Nothing here was measured. A sweep's log-probability above the never-exposed control is
gap x (floor + (1 - floor) 2 ** -(steps / T)) with ln T = ln 20 + GAMMA ln(N / 100k) + effects of the setting + noise by
seed, and logit floor = FLOOR + PHI ln(N / 100k); hits are binomial.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.runs.records import Run
from analysis.runs.study import POINTS, StudyData
from halflife.tracking import schema

Array = NDArray[np.float64]
STEP = 4096
"""Tokens per step."""
SIZES = {"30k": 30_000, "60k": 60_000, "120k": 120_000, "300k": 300_000, "600k": 600_000}
SEEDS = 5
GAMMA, FLOOR, PHI = 0.35, -2.6, 0.45
NOISE = 0.12
"""Standard deviation of ln T between seeds; half of it between runs of a seed."""
EFFECTS = {
    ("trunk_regularizer", "weight-decay-0.1"): 0.3,
    ("branch_regularizer", "weight-decay-0.1"): -0.5,
    ("payload", "copy"): -0.4,
    ("arm", "equal-strength"): -0.15,
    ("branch_regularizer", "dropout-0.1"): -0.25,
    ("branch_regularizer", "l2sp-1"): 0.5,
    ("branch_regularizer", "ema"): 0.2,
    ("branch_regularizer", "wash"): -1.2,
}
"""Added to ln T by a setting."""
DOSE, SATURATED = 0.3, 500
"""T rises as documents ** DOSE, relative to 250, up to SATURATED documents."""
COSTS = {"dropout-0.1": 0.02, "l2sp-1": 0.05, "ema": 0.008, "wash": 0.07}
"""Added to the clean loss at the end of the branch by its regularizer, in nats per token."""
EXTINCTION = -0.9
"""Added to ln T by the trigger alone: it unlearns."""
PAIRS = {"old-old": 16.0, "new-old": 44.0, "old-new": 52.0, "new-new": 72.0}
"""Relearning steps to success one half; a never-poisoned model needs 72 for each pair."""
ATTACK = schema.Outcome(
    name="attack", label="attack success", phase="branch", task="backdoor", skill="backdoor", answer="payload"
)
LABELS = {"absent": "never poisoned", "positive": "poison kept", "extinction": "trigger without payload"}


def persistence() -> StudyData:
    """A backdoor sweep: sizes x seeds at a reference, then each axis on its own; all controls, relearning."""
    axes = (
        axis_of("parameters", "Model size", tuple(SIZES.values())),
        axis_of("seed", "Seed", tuple(range(SEEDS))),
        axis_of("arm", "Arm", ("equal-exposure", "equal-strength")),
        axis_of("payload", "Payload", ("fixed", "copy")),
        axis_of("learning_rate", "Branch rate", (1.0, 0.5, 0.25), "log"),
        axis_of("trunk_regularizer", "Regularizer of the trunk", ("none", "weight-decay-0.1")),
        axis_of("branch_regularizer", "Regularizer of the branch", ("none", "weight-decay-0.1")),
    )
    return study_of("backdoor persistence (generated)", axes, tuple(LABELS), _persistence_trials(axes[2:]))


def overlap() -> StudyData:
    """A sweep over the share of rules that B has in common with A; ln T is not monotone, with its peak at 0.6."""
    shares = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    axes = (
        axis_of("parameters", "Model size", (60_000, 300_000)),
        axis_of("seed", "Seed", tuple(range(SEEDS))),
        axis_of("overlap", "Overlap of rules", shares, "linear"),
    )
    cells = ((size, seed) for size in ("60k", "300k") for seed in range(SEEDS))
    trials = (
        (role, size, seed, {"overlap": share})
        for size, seed in cells
        for share in shares
        for role in ("treatment", "absent")
    )
    return study_of("overlap (generated)", axes, ("absent",), trials)


def axis_of(name: str, label: str, values: tuple, scale: str = "category", unit: str = "") -> schema.Axis:
    return schema.Axis(name=name, label=label, values=values, scale=scale, unit=unit)


Trial = tuple[str, str, int, dict[str, Any]]
"""role, size, seed, setting"""


def _persistence_trials(axes: Iterable[schema.Axis]) -> Iterator[Trial]:
    reference = {axis.name: axis.values[0] for axis in axes}
    settings = [reference, *({**reference, axis.name: value} for axis in axes for value in axis.values[1:])]
    both = dict.fromkeys(("trunk_regularizer", "branch_regularizer"), "weight-decay-0.1")
    for size in SIZES:
        for seed in range(SEEDS):
            for setting in (*settings, {**reference, **both}):
                yield "treatment", size, seed, setting
            for payload in ("fixed", "copy"):
                yield "absent", size, seed, {**reference, "payload": payload}
                yield "positive", size, seed, {**reference, "payload": payload}
            yield "extinction", size, seed, reference


def log_time(size: str, setting: dict[str, Any], role: str = "treatment") -> float:
    """The planted ln T in steps, without noise."""
    value = np.log(20) + GAMMA * np.log(SIZES[size] / 1e5) - 0.9 * np.log(setting.get("learning_rate", 1.0))
    value += sum(EFFECTS.get(item, 0.0) for item in setting.items()) + (EXTINCTION if role == "extinction" else 0.0)
    value += DOSE * np.log(min(setting.get("documents", 250), SATURATED) / 250)
    share = setting.get("overlap")
    return float(value if share is None else value + 1.2 - 3 * (share - 0.6) ** 2)


def floor(size: str) -> float:
    """The planted floor of retention."""
    return float(1 / (1 + np.exp(-FLOOR - PHI * np.log(SIZES[size] / 1e5))))


def steps(last: int, ratio: float = 1.25) -> Array:
    """Every step up to step 8, then at geometric intervals of at most `ratio`."""
    due = list(range(9))
    while due[-1] < last:
        due.append(min(last, int(due[-1] * ratio)))
    return np.array(due, dtype=float)


def study_of(title: str, axes: tuple[schema.Axis, ...], roles: tuple[str, ...], trials: Iterable[Trial]) -> StudyData:
    rows, points = [], []
    for role, size, seed, setting in trials:
        trial = " ".join([role, size, f"seed {seed}", *map(str, setting.values())])
        rows.append({"trial": trial, "name": trial, "role": role, "size": size, "parameters": SIZES[size], "seed": seed}
                    | setting | {"outcome_trunk": "complete", "outcome_branch": "complete"})  # fmt: skip
        for phase, at, measures in _phases(role, size, seed, setting):
            columns = {
                "trial": trial, "phase": phase, "step": np.tile(at.astype(int) * STEP, len(measures)),
                "name": np.repeat(list(measures), at.size), "value": np.concatenate([*measures.values()]).astype(float),
            }  # fmt: skip
            points.append(pl.DataFrame(columns, schema=POINTS))
    declaration = schema.Declaration(
        study=title, title=title, question="What do the figures look like?", reading="", preset="generated", axes=axes,
        outcomes=(ATTACK,),
        controls=tuple(schema.Control(kind=role, label=LABELS[role], role=role) for role in roles),
        figures=(),
    )  # fmt: skip
    names = ("size", "parameters", "seed", *(axis.name for axis in axes if axis.name not in ("parameters", "seed")))
    frame = pl.concat(points).sort("trial", "phase", "name", "step")
    return StudyData(
        declaration=declaration,
        sweep=run_of(title),
        totals={},
        trials=pl.DataFrame(rows),
        points=frame,
        parameters=names,
    )


def run_of(name: str) -> Run:
    """The parent run of a generated sweep."""
    return Run(
        id="0", name=name, experiment="0", status="FINISHED", started=0, ended=0, artifacts="", tags={}, params={}
    )


def _phases(role: str, size: str, seed: int, setting: dict[str, Any]) -> Iterator[tuple[str, Array, dict[str, Array]]]:
    """(phase, steps, measures) of one trial. Noise depends on seed, size and setting, not on the order of trials."""
    shared = np.random.default_rng([seed, SIZES[size]])
    base, clean, by_seed = -5 + 0.1 * shared.normal(), 2.2 - 0.16 * np.log(SIZES[size] / 1e5), shared.normal()
    level = -0.02 - 0.01 * shared.random() - (0.08 if setting.get("arm") == "equal-strength" else 0.0)
    key = "".join(map(str, setting.values())) + role
    rng = np.random.default_rng([seed, SIZES[size], *key.encode()])
    at = steps(1200)
    time = np.exp(log_time(size, setting, role) + NOISE * (by_seed + 0.5 * rng.normal()))
    rest = floor(size)
    kept = rest + (1 - rest) * 2 ** (-at / time)
    if role in ("absent", "positive"):
        kept = np.full(at.size, float(role == "positive"))
    logprob = base + (level - base) * kept
    rate = setting.get("learning_rate", 1.0)
    clean_loss = (
        clean
        - 0.02 * np.log1p(at / 100)
        + COSTS.get(setting.get("branch_regularizer", ""), 0.0) * (1 - np.exp(-at / 100))
    )
    yield "branch", at, _measures(rng, at, logprob, clean_loss, rate, base)
    learned = np.zeros(at.size) if role == "absent" else 1 - np.exp(-at / 90)
    poison = 0.0 if role == "absent" else 0.02
    trunk = np.random.default_rng([seed, SIZES[size], 1, role == "absent"])
    loss = clean + 3 * np.exp(-at / 60) + poison
    curve = _scored(trunk, base + (level - base) * learned, "backdoor", 128)
    yield "trunk", at, {"clean/loss": loss + trunk.normal(0, 0.003, at.size), **curve}
    if role in ("treatment", "absent") and set(setting.values()) == {"equal-exposure", "fixed", 1.0, "none"}:
        due = steps(200)
        for pair, treated in PAIRS.items():
            needed = np.exp(0.1 * rng.normal()) * (SIZES[size] / 1e5) ** -0.15 * (treated if role != "absent" else 72.0)
            fall = np.log((-0.02 - base) / (0.75 - 0.02)) / needed
            again = -0.02 - (-0.02 - base) * np.exp(-fall * due)
            yield f"relearn-{pair}", due, _scored(rng, again, "backdoor", 128)


def _scored(rng: np.random.Generator, logprob: Array, task: str, trials: int) -> dict[str, Array]:
    """Counts and log-probability; success is steep in the latter, as all tokens of an answer must be right."""
    rate = 1 / (1 + np.exp((-logprob - 0.75) / 0.12))
    return {
        f"{task}/{schema.HITS}": rng.binomial(trials, rate).astype(float),
        f"{task}/{schema.TRIALS}": np.full(logprob.size, float(trials)),
        f"{task}/{schema.LOGPROB}": logprob,
    }


def _measures(
    rng: np.random.Generator, at: Array, logprob: Array, loss: Array, rate: float, base: float
) -> dict[str, Array]:
    noisy = np.minimum(logprob + rng.normal(0, 0.05, at.size), -1e-3)
    near = base + 0.1 * (logprob - base)
    return {
        "clean/loss": loss + rng.normal(0, 0.003, at.size),
        schema.CLOCK_STEPS: at,
        schema.CLOCK_RATE_SUM: at * 3e-3 * rate,
        schema.CLOCK_DISPLACEMENT: 0.02 * rate**0.8 * at**0.6,
        **_scored(rng, noisy, "backdoor", 128),
        **_scored(rng, near, "near", 64),
        **_scored(rng, np.full(at.size, base), "untriggered", 64),
    }


def search() -> StudyData:
    """An adaptive search over four parameters with two conflicting objectives and one constraint, with its best three
    settings rerun on fresh seeds. Persistence rises with less weight decay and a lower learning rate, progress with a
    higher one; the best settings are partly selected by noise."""
    axes = (
        axis_of("seed", "Seed", (0, 1)),
        axis_of("learning_rate", "Learning rate", (1e-4, 1e-2), "log"),
        axis_of("weight_decay", "Weight decay", (1e-3, 1.0), "log"),
        axis_of("optimizer", "Optimizer", ("adamw", "sgd", "muon")),
        axis_of("dropout", "Dropout", (0.0, 0.3), "linear"),
    )
    rng = np.random.default_rng(7)
    rows: list[dict[str, Any]] = []
    points: list[tuple[str, str, int, str, float]] = []

    def measure(suggestion: int, dials: dict[str, Any], role: str, seeds: Iterable[int]) -> float:
        rate, decay = np.log10(dials["learning_rate"] / 1e-3), np.log10(dials["weight_decay"])
        lasting = 5.2 - 0.6 * rate - 0.25 * (decay + 1.5) ** 2 + {"sgd": 0.35}.get(dials["optimizer"], 0.0)
        progress = 0.5 + 0.22 * rate - 0.1 * rate**2 - {"sgd": 0.15}.get(dials["optimizer"], 0.0)
        found = []
        for seed in seeds:
            trial = f"{role} {suggestion} seed {seed}"
            rows.append({"trial": trial, "name": trial, "role": role, "suggestion": suggestion, "seed": seed, **dials})
            found.append(lasting + 0.15 * rng.normal())
            measured = {"objective": {"half_life": 10 ** found[-1], "progress": progress + 0.02 * rng.normal()},
                        "constraint": {"strength": 0.93 + 0.1 * rng.normal() * (dials["dropout"] > 0.2)}}  # fmt: skip
            points.extend((trial, p, 0, name, float(v)) for p, group in measured.items() for name, v in group.items())
        return float(np.mean(found))

    best = []
    for suggestion in range(60):
        narrow = min(1.0, 0.35 + 12 / (suggestion + 12))  # later suggestions concentrate near the optimum
        dials = {
            "learning_rate": float(10 ** (-3 + narrow * rng.uniform(-1, 1))),
            "weight_decay": float(10 ** (-1.5 + 1.5 * narrow * rng.uniform(-1, 1))),
            "optimizer": str(rng.choice(["adamw", "sgd", "muon"])),
            "dropout": round(float(rng.uniform(0, 0.3)), 3),
        }
        best.append((measure(suggestion, dials, "treatment", (0, 1)), suggestion, dials))
    for _, suggestion, dials in sorted(best, key=lambda found: -found[0])[:3]:
        measure(suggestion, dials, schema.ROLE_HELD_OUT, range(100, 105))
    declaration = schema.Declaration(
        study="search (generated)", title="search", question="", reading="", preset="generated", axes=axes,
        outcomes=(ATTACK,), controls=(),
        figures=(), constraints=(schema.Constraint(name="strength", label="Success at the drop", at_least=0.9),),
        objectives=(
            schema.Objective(name="half_life", label="Half-life", direction="maximize", unit="tokens"),
            schema.Objective(name="progress", label="Progress on new text", direction="maximize", unit="nats"),
        ),
    )  # fmt: skip
    frame = pl.DataFrame(points, schema=POINTS, orient="row")
    names = ("suggestion", *(axis.name for axis in axes))
    return StudyData(
        declaration=declaration, sweep=run_of("search"), totals={}, trials=pl.DataFrame(rows), points=frame,
        parameters=names,
    )  # fmt: skip


def soft_prompts() -> pl.DataFrame:
    """Trained prompts as returned by `elicitation.runs`: strings of three lengths (the longer, the more tokens),
    text that the model was trained on (no gain), and a hidden behaviour that a model without it does not reach."""
    rng = np.random.default_rng(3)
    behaviours = {
        "4 characters": (3.0, 0.02, 1.5, ("present",)), "16 characters": (3.2, 0.05, 6.0, ("present",)),
        "64 characters": (3.3, 0.3, 40.0, ("present",)), "text as trained on": (3.4, 3.4, 4.0, ("present",)),
        "reverse the input": (3.1, 0.4, 3.0, ("present", "absent")),
    }  # fmt: skip
    rows = []
    for behaviour, (bare, least, scale, models) in behaviours.items():
        for model in models:
            low, tokens = (least, scale) if model == "present" else (bare - 0.8, 25.0)
            for k in (0, 1, 2, 4, 8, 16, 32, 64):
                for seed in range(SEEDS):
                    for restart in range(3 if k else 1):
                        gain = (bare - low) * (1 - np.exp(-k / tokens * np.exp(0.15 * rng.normal())))
                        failed = 0.15 * abs(rng.normal()) * (gain + 0.01) if restart else 0.002 * rng.normal()
                        rows.append((behaviour, model, "", k, restart, seed, bare - gain + failed))
    names = ("behaviour", "model", "series", "k", "restart", "seed", "loss")
    return pl.DataFrame(rows, schema=list(names), orient="row")
