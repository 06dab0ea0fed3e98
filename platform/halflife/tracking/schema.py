"""The words that travel from halflife to analysis: names, tags, the declaration. Standard library only.

Version 1. A newer analysis reads older schemas through small upgrade functions; an older one refuses newer.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1
DECLARATION = "study.json"
"""Artifact of the parent run that carries the declaration."""

# Tags. Every run of halflife has KIND and SCHEMA.
TAG_SCHEMA = "halflife.schema"
TAG_KIND = "halflife.kind"  # sweep | trial | stage
TAG_STUDY = "halflife.study"
TAG_SWEEP = "halflife.sweep"  # digest of the sweep (study, preset, trials): the parent run is found by it
TAG_TRIAL = "halflife.trial"  # on a trial run: the trial's key, unique in its sweep
TAG_ROLE = "halflife.role"  # on a trial run: treatment, or the role of the control that it is
TAG_STAGE = "halflife.stage"  # on a stage run: the stage's folder name
TAG_STAGE_PREFIX = "halflife.stage."  # on a trial run: + phase -> folder name of that phase's stage
TAG_OUTCOME_PREFIX = "halflife.outcome."  # on trial (+ phase) runs: complete | diverged | failed | blocked: why
TAG_SUMMARY_PREFIX = "halflife.summary."  # on trial (+ phase) and stage (+ "stage") runs: JSON of the stage's summary
TAG_PUBLISHED = "halflife.published"  # "complete" once every point of the run has been written
TAG_TOLD = "halflife.told"  # on a trial run of an adaptive search: what the search was told: complete | failed: why
# On the sweep's own run: where its numbers come from.
TAG_COMMAND = "halflife.command"
TAG_COMMIT = "halflife.commit"
TAG_CHANGES = "halflife.changes"  # digest of uncommitted changes, empty when there were none
TAG_VERSIONS = "halflife.versions"  # JSON: library -> version
PARENT_RUN = "mlflow.parentRunId"

STAGE_PHASE = "stage"
"""Phase under which a shared stage's own run logs its metrics: `stage/<task>/<measure>`.
A trial reads them as its own phase's, through the tag halflife.stage.<phase>."""

# An adaptive search. A setting that it suggests has one trial run per seed; they have the parameter SUGGESTION alike.
SUGGESTION = "suggestion"  # number of the setting in the search, from 0; controls have none
ROLE_HELD_OUT = "held-out"
"""Role of the trials that evaluate the best settings again on seeds that the search never saw. Their numbers are the
result: those of role `treatment` chose the settings, and are too good for it (the winner's curse)."""
OBJECTIVE_PHASE, CONSTRAINT_PHASE = "objective", "constraint"
"""A trial run's `objective/<name>` and `constraint/<name>` at step 0 are measured on that run, one seed, alone. The
search is told the mean over the treatments of a suggestion. A run that could not be measured has none."""

# Measures of every training stage, at each evaluation.
CLOCK_STEPS = "clock/steps"
CLOCK_RATE_SUM = "clock/learning_rate_sum"  # sum of the base learning rate over steps since the phase began
CLOCK_DISPLACEMENT = "clock/displacement"  # ||theta - theta_0|| / ||theta_0|| since the phase began
# Suffixes of a scored task: counts stay counts.
HITS, TRIALS, LOGPROB = "hits", "trials", "logprob"
CHANCE = "chance"  # share of hits by guessing, where it differs between trials; else the declared outcome's
LOSS = "loss"


def metric(phase: str, task: str, measure: str) -> str:
    """`<phase>/<task>/<measure>`; the MLflow step is tokens since the phase began."""
    return f"{phase}/{task}/{measure}"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One thing that a study varies."""

    name: str
    """The trial parameter's name."""
    label: str
    values: tuple[Any, ...]
    unit: str = ""
    scale: str = "category"
    """category | linear | log"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One thing that a study measures by counts, with the log-probability as continuous companion."""

    name: str
    label: str
    phase: str
    task: str
    chance: float = 0.0
    """Share of hits by guessing; a trial that logs `<phase>/<task>/chance` has its own."""
    skill: str = "skill"
    """What is kept or lost, as a report calls it: "backdoor"."""
    answer: str = "answer"
    """What is asked for, as a report calls it: "payload"."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """One control that a study declares."""

    kind: str
    """positive (cause still present) | absent (never had the behaviour) | null (same treatment, no cause) |
    extinction (the cue still present, what it was trained to bring is not)"""
    label: str
    role: str = ""
    """Trials of this role are the control; empty when it is a task measured beside the outcome."""
    task: str = ""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One thing that an adaptive search makes as large or as small as it can: metric `objective/<name>`."""

    name: str
    label: str
    direction: str
    """maximize | minimize"""
    formula: str = ""
    """How it is measured from one trial, exactly, in words and symbols."""
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """What a setting must meet to count among the best: metric `constraint/<name>`, within the bounds on every seed."""

    name: str
    label: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def words(self) -> str:
        """ "clean loss at most 2"."""
        ends = (("at least", self.at_least), ("at most", self.at_most))
        return f"{self.label.lower()} {' and '.join(f'{end} {value:g}' for end, value in ends if value is not None)}"


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a sweep asked and how to read it; data only."""

    study: str
    title: str
    question: str
    reading: str
    """How to read the metrics, a paragraph."""
    preset: str
    axes: tuple[Axis, ...]
    outcomes: tuple[Outcome, ...]
    controls: tuple[Control, ...]
    figures: tuple[str, ...]
    """Names from analysis.figures, in the order of the report."""
    corpus: str = ""
    """What the text is, in words: "Python source"."""
    notes: tuple[str, ...] = ()
    objectives: tuple[Objective, ...] = ()
    """Of an adaptive search; empty for a grid."""
    constraints: tuple[Constraint, ...] = ()
    prompts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of soft prompts that one phase fits together: by the end of a task's name, `<behaviour>.<prompt>`, what sets the
    prompt apart (k, restart, initial, ...)."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The settings as given, for reproduction."""
    schema: int = SCHEMA

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Declaration:
        """Raises ValueError when the declaration is of a newer schema than this code."""
        data = json.loads(text)
        if data["schema"] > SCHEMA:
            raise ValueError(
                f"the runs were written with schema {data['schema']}, this analysis reads up to {SCHEMA}: "
                "upgrade halflife"
            )
        data["axes"] = tuple(Axis(**{**axis, "values": tuple(axis["values"])}) for axis in data["axes"])
        data["outcomes"] = tuple(Outcome(**outcome) for outcome in data["outcomes"])
        data["controls"] = tuple(Control(**control) for control in data["controls"])
        data["objectives"] = tuple(Objective(**objective) for objective in data.get("objectives", ()))
        data["constraints"] = tuple(Constraint(**constraint) for constraint in data.get("constraints", ()))
        data["figures"], data["notes"] = tuple(data["figures"]), tuple(data["notes"])
        return Declaration(**data)
