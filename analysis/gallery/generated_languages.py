"""A generated sweep of language families with known ground truth, for the gallery and for tests.

Nothing here was measured. Success in the dropped language, above chance, is success at the drop x 2 ** -(steps / T)
with ln T by family, size and setting. Readings that do not depend on the output (few shots, forced choice, linear
probe, relearning) keep the share DEPTH of their advantage over a model that never saw the language.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from analysis.gallery.generated import SIZES, STEP, run_of, steps
from analysis.runs.study import POINTS, StudyData
from halflife.tracking import schema

USED = ("30k", "120k", "300k")
SEEDS = 5
TIMES = {"A": 15.0, "B": 40.0, "C": 110.0, "D": 90.0}
"""Half-life in steps at 100k parameters."""
DEPTH = {"A": 0.08, "B": 0.45, "C": 0.8, "D": 0.75}
"""Share of the advantage that is kept without being output: 0 is scrambled, 1 is gated."""
GAMMA = 0.25
EFFECTS = {
    ("branch_regularizer", "weight-decay-1"): -0.7,
    ("trunk_regularizer", "weight-decay-1"): 0.4,
    ("replay", 0.01): 1.2,
    ("arm", "equal-exposure"): -0.2,
}
"""Added to ln T by a setting."""
OVERLAPS = {"rule_overlap": 0.9, "token_overlap": 0.4}
"""Added to ln T by full overlap, linear from 0 to 1."""
NULL_TIME, NULL_DEPTH = 12.0, 0.02
"""T and DEPTH of a table without a rule."""
UNTRAINED = 0.7
"""Success on D's left-out pair at the drop."""
LANGUAGES = {
    "A": ("progression", "phrase", "palindrome", "sorting", "brackets"),
    "B": ("digits", "words", "reversed", "roman", "tallies"),
}
CHANCE = {"A": 0.03, "B": 1 / 11}
EXAMPLES = {"relearn-8": 0.25, "relearn-32": 0.6, "relearn-all": 0.97}
"""Success that a model that never saw the language reaches with that many examples."""
MISSED = ("C", "30k", 3)
"""A trunk that did not reach the criterion."""
READINGS = {"shots": (0.97, 0.05, 0.8), "choice": (0.98, 0.1, 1.0), "layer": (0.95, 0.3, 1.1)}
"""Success at the drop, success of a model that never saw the language, and the share of DEPTH that the reading has."""
LAYERS = 4


def families() -> StudyData:
    """Four families x sizes x seeds in two arms; treatments, overlaps and relearning of B; all controls."""
    axes = (
        _axis("family", "Family", tuple(TIMES)),
        _axis("parameters", "Model size", tuple(SIZES[size] for size in USED), "log"),
        _axis("seed", "Seed", tuple(range(SEEDS))),
        _axis("arm", "Arm", ("equal-strength", "equal-exposure")),
        _axis("trunk_regularizer", "Regularizer of the trunk", ("none", "weight-decay-1")),
        _axis("branch_regularizer", "Regularizer of the branch", ("none", "weight-decay-1")),
        _axis("replay", "Replay", (0.0, 0.01), "linear"),
        _axis("rule_overlap", "Rules in common", (1.0, 0.5, 0.0), "linear"),
        _axis("token_overlap", "Tokens in common", (1.0, 0.5, 0.0), "linear"),
    )
    labels = {"absent": "never saw the language", "positive": "language kept", "null": "answers shuffled"}
    rows, points = [], []
    for role, size, seed, setting in _trials():
        trial = " ".join([role, size, f"seed {seed}", *map(str, setting.values())])
        missed = (setting["family"], size, seed) == MISSED and role != "absent" and setting["arm"] == "equal-strength"
        ended = "blocked: the trunk never reached snapshot 'criterion'" if missed else "complete"
        rows.append({
            "trial": trial, "name": trial, "role": role, "size": size, "parameters": SIZES[size], "seed": seed,
            **setting, "subject": _languages(setting["family"])[0], "stage_trunk": _trunk(role, size, seed, setting),
            "outcome_trunk": "complete", "outcome_branch": ended,
        })  # fmt: skip
        for phase, at, measures in () if missed else _phases(role, size, seed, setting):
            columns = {
                "trial": trial, "phase": phase, "step": np.tile(at.astype(int) * STEP, len(measures)),
                "name": np.repeat(list(measures), at.size), "value": np.concatenate([*measures.values()]).astype(float),
            }  # fmt: skip
            points.append(pl.DataFrame(columns, schema=POINTS))
    title = "families of languages (generated)"
    declaration = schema.Declaration(
        study=title, title=title, question="What do the figures look like?", reading="", preset="generated", axes=axes,
        outcomes=(schema.Outcome(name="skill", label="success", phase="branch", task="dropped", skill="language"),),
        controls=tuple(schema.Control(kind=role, label=label, role=role) for role, label in labels.items()), figures=(),
    )  # fmt: skip
    names = ("size", "parameters", "seed", *(a.name for a in axes if a.name not in ("parameters", "seed")), "subject")
    return StudyData(
        declaration=declaration, sweep=run_of(title),
        totals={"sweep/tokens_trained": 3.1e8, "sweep/tokens_unshared": 9.2e8},
        trials=pl.DataFrame(rows), points=pl.concat(points).sort("trial", "phase", "name", "step"), parameters=names,
    )  # fmt: skip


def _axis(name: str, label: str, values: tuple, scale: str = "category") -> schema.Axis:
    return schema.Axis(name=name, label=label, values=values, scale=scale)


def _languages(family: str) -> tuple[str, ...]:
    return LANGUAGES["A" if family == "A" else "B"]


def _trunk(role: str, size: str, seed: int, setting: dict[str, Any]) -> str:
    """The trunk's name, equal for branches that share it."""
    own = ("family", "trunk_regularizer", "rule_overlap", "token_overlap")
    kind = role if role in ("absent", "null") else "trained"
    return " ".join([kind, size, str(seed), *(str(setting[name]) for name in own)])


def _trials() -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """role, size, seed, setting."""
    plain = {
        "arm": "equal-strength", "trunk_regularizer": "none", "branch_regularizer": "none", "replay": 0.0,
        "rule_overlap": 1.0, "token_overlap": 1.0,
    }  # fmt: skip
    for size in USED:
        for seed in range(SEEDS):
            for family in TIMES:
                reference = {"family": family, **plain}
                yield "treatment", size, seed, reference
                yield "treatment", size, seed, {**reference, "arm": "equal-exposure"}
                for role in ("absent", "positive", "null"):
                    yield role, size, seed, reference
            changed = [item for item in EFFECTS if item[0] != "arm"]
            changed += [(dial, share) for dial in OVERLAPS for share in (0.5, 0.0)]
            for name, value in changed:
                yield "treatment", size, seed, {"family": "B", **plain, name: value}


def log_time(family: str, size: str, setting: dict[str, Any]) -> float:
    """The planted ln T in steps, without noise."""
    value = np.log(TIMES[family]) + GAMMA * np.log(SIZES[size] / 1e5)
    value += sum(EFFECTS.get((name, setting[name]), 0.0) for name in setting)
    return float(value + sum(slope * (setting[dial] - 1) for dial, slope in OVERLAPS.items()))


def _phases(role: str, size: str, seed: int, setting: dict[str, Any]) -> Iterator[tuple[str, np.ndarray, dict]]:
    """(phase, steps, measures) of one trial. Noise depends on seed, size and setting, not on the order of trials."""
    family, names = setting["family"], _languages(setting["family"])
    rng = np.random.default_rng([seed, SIZES[size], *"".join([role, *map(str, setting.values())]).encode()])
    by_seed = np.random.default_rng([seed, SIZES[size]]).normal()
    chance, depth = CHANCE["A" if family == "A" else "B"], DEPTH[family]
    time = np.exp(log_time(family, size, setting) + 0.12 * by_seed + 0.06 * rng.normal())
    if role == "null":
        time, depth = NULL_TIME, NULL_DEPTH
    at, sparse = steps(1200, 1.6), np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1200.0])
    strong = 0.55 if (family, size, seed) == MISSED else 0.97

    def output(due: np.ndarray) -> np.ndarray:
        if role in ("absent", "positive"):
            return np.full(due.size, float(role == "positive"))
        return 2 ** (-due / time)

    def scored(task: str, rate: np.ndarray, level: float, count: int = 96) -> dict[str, np.ndarray]:
        hits = rng.binomial(count, np.clip(rate, 0, 1)).astype(float)
        return {f"{task}/{schema.HITS}": hits, f"{task}/{schema.TRIALS}": np.full(rate.size, float(count)),
                f"{task}/chance": np.full(rate.size, level)}  # fmt: skip

    measures = {
        schema.CLOCK_STEPS: at, schema.CLOCK_RATE_SUM: at * 3e-3, schema.CLOCK_DISPLACEMENT: 0.02 * at**0.6,
        **scored("dropped", chance + (strong - chance) * output(at), chance),
        "dropped/logprob": -6 + 5.98 * np.sqrt(output(at)) - 0.02 * rng.random(at.size),
        **scored("dropped-memorised", chance + (0.99 - chance) * output(0.8 * at), chance),
        **scored("kept", np.full(at.size, 0.96), chance, 400),
    }  # fmt: skip
    for place, name in enumerate(names):
        kept = output(at) if place == 0 else 1 - 0.05 * place * at / (at + 100)
        measures |= scored(f"language-{name}", chance + (0.97 - chance) * kept, chance)
    if family == "D":
        stays = 1 if role in ("absent", "positive") else 2 ** (-at / (8 * time))
        measures |= scored("untrained", np.broadcast_to(chance + (UNTRAINED - chance) * stays, at.shape), chance, 22)
    yield "branch", at, measures
    left = {name: np.zeros(sparse.size) if role == "absent" else part * depth + (1 - part * depth) * output(sparse)
            for name, (_, _, part) in READINGS.items()}  # fmt: skip
    readings: dict[str, np.ndarray] = {}
    for name, (trained, never, _) in READINGS.items():
        value = never + (trained - never) * left[name]
        tasks = {name: value} if name != "layer" else {
            f"layer-{layer}": chance + (value - chance) * layer / LAYERS for layer in range(LAYERS + 1)
        }  # fmt: skip
        for task, rate in tasks.items():
            readings |= scored(task, rate, chance)
    yield "branch", sparse, readings
    if role not in ("treatment", "absent") or {**setting, "family": "", "arm": ""} != _plain_but_family():
        return
    due = steps(300, 1.5)
    saved = depth if role == "treatment" else 0.0
    for phase, top in EXAMPLES.items():
        scale = 70 * np.exp(0.08 * rng.normal()) * (1 - saved)
        reached = min(0.97, top + 0.5 * saved)
        again = chance + (reached - chance) * (1 - np.exp(-due / scale))
        yield phase, due, {**scored("dropped", again, chance), schema.CLOCK_STEPS: due}


def _plain_but_family() -> dict[str, Any]:
    return {"family": "", "arm": "", "trunk_regularizer": "none", "branch_regularizer": "none", "replay": 0.0,
            "rule_overlap": 1.0, "token_overlap": 1.0}  # fmt: skip
