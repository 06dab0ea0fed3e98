"""The interface from halflife to analysis: names, tags, the declaration. Standard library only.

Version 2 added the roles of axes, quantities and questions. A newer analysis reads older schemas through small upgrade
functions; an older one refuses newer schemas.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from halflife.tracking import questions
from halflife.tracking.criteria import Criterion, Levers
from halflife.tracking.questions import Quantity, Question

SCHEMA = 2
DECLARATION = "study.json"
"""Artifact of the parent run that carries the declaration."""

# Tags. Every run of halflife has KIND and SCHEMA.
TAG_SCHEMA = "halflife.schema"
TAG_KIND = "halflife.kind"  # sweep | trial | stage
TAG_STUDY = "halflife.study"
TAG_SWEEP = "halflife.sweep"  # digest of the sweep (study, preset, trials): the parent run is found by it
TAG_TRIAL = "halflife.trial"  # on a trial run: the trial's key, unique in its sweep
TAG_ROLE = "halflife.role"  # on a trial run: treatment, or its role as a control
TAG_STAGE = "halflife.stage"  # on a stage run: the stage's folder name
TAG_STAGE_PREFIX = "halflife.stage."  # on a trial run: + phase -> folder name of that phase's stage
TAG_OUTCOME_PREFIX = "halflife.outcome."  # on trial (+ phase) runs: complete | diverged | failed | blocked: why
TAG_SUMMARY_PREFIX = "halflife.summary."  # on trial (+ phase) and stage (+ "stage") runs: JSON of the stage's summary
TAG_PUBLISHED = "halflife.published"  # "complete" once every point of the run is written
TAG_RESULT = "halflife.told"  # on a trial run of an adaptive search: what the search got: complete | failed: why
TAG_ANSWER_PREFIX = "halflife.answer."  # on the sweep's run: + question -> its answer in a sentence
TAG_VERDICT_PREFIX = "halflife.verdict."  # + question -> effect | equivalent | undecided | reported; if valid
TAG_TRIALS = "halflife.trials"  # on the sweep's run: how many trials are planned so far
# On the sweep's run: the provenance of its numbers.
TAG_COMMAND = "halflife.command"
TAG_COMMIT = "halflife.commit"
TAG_CHANGES = "halflife.changes"  # digest of uncommitted changes, empty if there were none
TAG_VERSIONS = "halflife.versions"  # JSON: library -> version
PARENT_RUN = "mlflow.parentRunId"
DECLARED_PREFIX = "declared/"
"""Parameter of the sweep's run, which MLflow never changes: + digest of the declaration -> when a sweep with questions
first published it, before its first stage. ISO 8601, UTC."""

EXAMPLE_COLUMNS = ("task", "tokens", "text", "marked", "completion", "answer")
"""Of a trial's artifacts of examples: the evaluation, or what the document is; tokens since the phase began, and none
of a document; a prompt or a document; what of it is set apart; the model's completion; the right answer. Texts have
everything escaped that does not print."""

STAGE_PHASE = "stage"
"""Phase of the metrics on a shared stage's run: `stage/<task>/<measure>`. A trial refers to it by the tag
halflife.stage.<phase>."""

# An adaptive search. A suggested setting has one trial run per seed; all have the same parameter SUGGESTION.
SUGGESTION = "suggestion"  # number of the setting in the search, from 0; controls have none
ROLE_HELD_OUT = "held-out"
"""Role of the trials that evaluate the best settings again on seeds that the search never saw. Their numbers are the
result: those of role `treatment` selected the settings, and have selection bias (winner's curse)."""
OBJECTIVE_PHASE, CONSTRAINT_PHASE = "objective", "constraint"
"""A trial run's `objective/<name>` and `constraint/<name>` at step 0 are that run's, so of one seed. The search uses
the mean over the treatments of a suggestion. A run that could not be measured has none."""

RESULT_PHASE = "result"
"""A trial run's `result/<quantity>` and `result/success_at_drop`, at step 0, are what a report computed from its
points, for MLflow's page. analysis does not read them."""
AT_THE_DROP = "success_at_drop"

# Measures of every training stage, at each evaluation.
CLOCK_STEPS = "clock/steps"
CLOCK_RATE_SUM = "clock/learning_rate_sum"  # sum of the base learning rate over steps since the phase began
CLOCK_DISPLACEMENT = "clock/displacement"  # ||theta - theta_0|| / ||theta_0|| since the phase began
# Suffixes of a scored task. Counts are stored as counts.
HITS, TRIALS, LOGPROB = "hits", "trials", "logprob"
CHANCE = "chance"  # chance level, if it differs between trials; otherwise the declared outcome's
LOSS = "loss"


def examples_of(phase: str) -> str:
    """The artifact of a trial with a phase's documents and completions, a table as MLflow shows it: JSON with columns
    (EXAMPLE_COLUMNS) and data, a list of rows."""
    return f"examples-{phase}.json"


def metric(phase: str, task: str, measure: str) -> str:
    """`<phase>/<task>/<measure>`; the MLflow step is tokens since the phase began."""
    return f"{phase}/{task}/{measure}"


def sqlite_uri(path: Path) -> str:
    """The address of a SQLite file as MLflow takes it.

    SQLAlchemy decodes the file's name and takes what follows a "?" as options, so these signs are encoded. MLflow does
    not decode, and makes the folder that it reads there: with "/" encoded as well, it reads none.
    """
    name = str(path)
    return "sqlite:///" + (quote(name, safe="") if "%" in name or "?" in name else name)


def sqlite_path(uri: str) -> Path:
    """The file of a SQLite address, as SQLAlchemy reads it."""
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0]))


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A quantity that a study varies."""

    name: str
    """The trial parameter's name."""
    label: str
    values: tuple[Any, ...]
    unit: str = ""
    scale: str = "category"
    """category | linear | log"""
    role: str = ""
    """replicate (repeats: seeds) | treatment (what is compared) | dose (an amount) | measured (what is measured). By
    default replicate for `seed`, dose for an axis with a numeric scale, treatment otherwise."""

    def __post_init__(self) -> None:
        if not self.role:
            usual = "replicate" if self.name == "seed" else "treatment" if self.scale == "category" else "dose"
            object.__setattr__(self, "role", usual)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A quantity that a study measures by counts, with the log-probability as a continuous companion."""

    name: str
    label: str
    phase: str
    task: str
    chance: float = 0.0
    """Chance level; a trial that logs `<phase>/<task>/chance` has its own."""
    skill: str = "skill"
    """Name in reports of what is kept or lost: "backdoor"."""
    answer: str = "answer"
    """Name in reports of the right answer: "payload"."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """A control that a study declares."""

    kind: str
    """positive (cause still present) | absent (never had the behaviour) | null (same treatment, no cause) |
    extinction (trigger still present, without the payload)"""
    label: str
    role: str = ""
    """Trials of this role are the control; empty if the control is a further task of each trial."""
    task: str = ""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A quantity that an adaptive search maximizes or minimizes: metric `objective/<name>`."""

    name: str
    label: str
    direction: str
    """maximize | minimize"""
    formula: str = ""
    """The exact definition, from one trial."""
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """A condition on the best settings: metric `constraint/<name>` is within the bounds on every seed."""

    name: str
    label: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def text(self) -> str:
        """ "clean loss at most 2"."""
        ends = (("at least", self.at_least), ("at most", self.at_most))
        return f"{self.label.lower()} {' and '.join(f'{end} {value:g}' for end, value in ends if value is not None)}"


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a sweep measures and how to read it; data only."""

    study: str
    title: str
    question: str
    reading: str
    """A paragraph on how to read the metrics."""
    preset: str
    axes: tuple[Axis, ...]
    outcomes: tuple[Outcome, ...]
    controls: tuple[Control, ...]
    figures: tuple[str, ...]
    """Names of figures (analysis.figures), in the order of the report."""
    corpus: str = ""
    """A description of the text: "Python source"."""
    notes: tuple[str, ...] = ()
    objectives: tuple[Objective, ...] = ()
    """Of an adaptive search; empty for a grid."""
    constraints: tuple[Constraint, ...] = ()
    prompts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For soft prompts that one phase fits together: by the suffix of the task name, `<behaviour>.<prompt>`, the
    prompt's parameters (k, restart, initial, ...)."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The settings as given, for reproduction."""
    quantities: tuple[Quantity, ...] = ()
    questions: tuple[Question, ...] = ()
    looks: tuple[int, ...] = ()
    """Numbers of seeds at which the questions are looked at, the first 5 or more; empty: once, at all seeds."""
    pilot_seeds: tuple[int, ...] = ()
    """Seeds seen before the declaration: left out of every answer."""
    criteria: tuple[Criterion, ...] = ()
    """What phases must reach, or the sweep stops early."""
    levers: Levers = field(default_factory=Levers)
    """Settings that mend checks which fail."""
    declared: str = ""
    """When the questions were declared, before the first stage (`DECLARED_PREFIX`): set on reading. ISO 8601, UTC."""
    schema: int = SCHEMA

    @property
    def digest(self) -> str:
        """Of what is asked and how it is judged; the same for any number of seeds, and any preset."""
        asked = (self.study, self.quantities, self.questions, self.looks, self.pilot_seeds)
        return hashlib.sha256(json.dumps(questions.chosen(asked), sort_keys=True).encode()).hexdigest()

    @property
    def declared_parameter(self) -> str:
        """Name of the parameter with the time of this declaration."""
        return f"{DECLARED_PREFIX}{self.digest[:16]}"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Declaration:
        """Raises ValueError when the declaration has a newer schema than this code, or cannot be read."""
        data = json.loads(text)
        if data["schema"] > SCHEMA:
            raise ValueError(
                f"the runs have schema {data['schema']}, this analysis reads up to {SCHEMA}: upgrade halflife"
            )
        data["axes"] = tuple(Axis(**{**axis, "values": tuple(axis["values"])}) for axis in data["axes"])
        data["outcomes"] = tuple(Outcome(**outcome) for outcome in data["outcomes"])
        data["controls"] = tuple(Control(**control) for control in data["controls"])
        data["objectives"] = tuple(Objective(**objective) for objective in data.get("objectives", ()))
        data["constraints"] = tuple(Constraint(**constraint) for constraint in data.get("constraints", ()))
        data["quantities"] = tuple(questions.quantity(each) for each in data.get("quantities", ()))
        data["questions"] = tuple(questions.read(questions.QUESTIONS, each) for each in data.get("questions", ()))
        data["criteria"] = tuple(Criterion(**criterion) for criterion in data.get("criteria", ()))
        levers: dict[str, Any] = data.get("levers", {})
        levers = {name: tuple(v) if isinstance(v, list) else v for name, v in levers.items()}
        data["levers"] = Levers(**levers)
        for name in ("figures", "notes", "looks", "pilot_seeds"):
            data[name] = tuple(data.get(name, ()))
        return Declaration(**data)
