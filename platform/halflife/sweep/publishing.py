"""Turns a sweep into MLflow runs for the publisher: trials, shared stages, their points, and how each ended."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from halflife.evaluation.examples import EXAMPLES
from halflife.store.plan import Plan
from halflife.store.stage import Outcome, Stage
from halflife.store.store import Store
from halflife.sweep.study import Study, Trial
from halflife.tracking import schema
from halflife.tracking.publisher import Point, Publisher, Run, RunRef, Status

_LONGEST_TAG = 8000
"""Characters: MLflow's limit."""


class Publishing:
    """Follows a plan: `update` publishes what has ended since the last call.

    The points of a stage that one trial uses are in the trial's run, as `<phase>/<task>/<measure>`. A shared stage has
    a run of its own, with metrics `stage/<task>/<measure>`, and tags on its trials refer to it.
    """

    def __init__(self, study: Study, plan: Plan, store: Store, publisher: Publisher, origin: dict[str, Any]) -> None:
        self._study, self._plan, self._store, self._publisher = study, plan, store, publisher
        self._sweep = RunRef("sweep", study.key)
        self._announced: set[str] = set()
        self._open: dict[str, dict[str, bool]] = {}
        """By trial key: the phases that have ended, and whether that is final."""
        self._tables: dict[str, dict[str, dict[str, str]]] = {}
        """By trial key and phase: what MLflow must know of a table."""
        self._held: set[str] = set()
        """Keys of trials whose runs stay open after their phases end, until the search reports their objectives."""
        self._seen = [0, 0, 0]
        self._announce_sweep(origin)

    def update(self) -> None:
        """Publish every stage that has ended since the last call."""
        for index, group in enumerate(self._ended_groups()):
            if len(group) > self._seen[index]:
                for key in list(islice(group, self._seen[index], None)):
                    self._stage_ended(self._plan.stages[key])
                self._seen[index] = len(group)

    def grow(self, study: Study, trials: Sequence[Trial], *, held: Iterable[Trial] = ()) -> None:
        """Add these trials, now part of `study`. The runs of those in `held` stay open until `conclude`."""
        if study.declaration != self._study.declaration:  # more seeds
            self._declare(study)
        self._study = study
        self._count()
        self._held |= {trial.key for trial in held}
        seen = {key for group, count in zip(self._ended_groups(), self._seen, strict=True) for key in [*group][:count]}
        shared = {stage.key: stage for trial in trials for stage in trial.stages.values() if stage.key in seen}
        for stage in shared.values():
            outcome, _, _ = self._end_of(stage)
            if outcome and study.shared(stage):
                self._publish_shared(stage, outcome, study.users[stage.key])
        for trial in trials:
            for phase, stage in trial.stages.items():
                if stage.key in shared:
                    self._announce(trial)
                    self._phase_ended(trial, phase, stage)

    def conclude(self, trial: Trial, values: dict[str, float], result: str) -> None:
        """Publish a held trial's objectives and the result reported to the search; end the trial's run."""

        def points() -> Iterator[Point]:
            timestamp = max(self._ended_at(stage) for stage in trial.stages.values())
            return (Point(name, 0, value, timestamp) for name, value in values.items())

        self._announce(trial)
        ref = RunRef("trial", trial.key)
        tags = {schema.TAG_RESULT: result[:_LONGEST_TAG]}
        self._publisher.log(ref, f"objectives of trial {trial.name!r}", points=points if values else tuple, tags=tags)
        self._held.discard(trial.key)
        self._finish_ended(trial)

    def drain(self) -> None:
        """Wait until everything is published, as far as the store can be reached."""
        self._publisher.drain()

    def finish(self, status: Status, numbers: dict[str, float], *, complete: bool = True) -> None:
        """End all runs; `numbers` are the sweep's metrics (`sweep/<name>`). `complete`: a sweep that finished will not
        grow any more."""
        whole = status == "FINISHED" and complete
        for trial in self._study.trials:
            if trial.key in self._announced and (trial.key in self._held or not self._ended(trial)):
                self._publisher.finish(
                    RunRef("trial", trial.key), "KILLED" if status == "KILLED" else "FAILED", complete=False
                )
        now = int(time.time() * 1000)
        points = [Point(f"sweep/{name}", now // 1000, value, now) for name, value in numbers.items()]
        self._publisher.log(self._sweep, "metrics of the sweep", points=lambda: points)
        self._publisher.finish(self._sweep, status, complete=whole)

    def _announce_sweep(self, origin: dict[str, Any]) -> None:
        declaration = self._study.declaration
        parameters = {f"settings/{name}": _setting(value) for name, value in declaration.settings.items()}
        if declaration.questions:
            parameters[declaration.declared_parameter] = datetime.now(UTC).isoformat(timespec="seconds")
        self._publisher.ensure(
            Run(
                ref=self._sweep,
                name=f"{declaration.study} {declaration.preset}",
                description=_sweep_description(self._study),
                parameters=parameters,
                tags={
                    schema.TAG_COMMAND: origin.get("command") or "",
                    schema.TAG_COMMIT: origin.get("commit") or "",
                    schema.TAG_CHANGES: origin.get("changes") or "",
                    schema.TAG_VERSIONS: json.dumps(origin.get("versions") or {}),
                    "mlflow.source.name": origin.get("command") or "",
                    "mlflow.source.git.commit": origin.get("commit") or "",
                },
            )
        )
        self._declare(self._study)
        self._count()

    def _count(self) -> None:
        """How many trials are planned so far, for reports of a sweep that runs."""
        tags = {schema.TAG_TRIALS: str(len(self._study.trials))}
        self._publisher.log(self._sweep, "number of trials", tags=tags)

    def _declare(self, study: Study) -> None:
        self._publisher.artifact(self._sweep, schema.DECLARATION, study.declaration.to_json())

    def _announce(self, trial: Trial) -> None:
        if trial.key in self._announced:
            return
        self._announced.add(trial.key)
        phases = {schema.TAG_STAGE_PREFIX + phase: stage.folder_name for phase, stage in trial.stages.items()}
        self._publisher.ensure(
            Run(
                ref=RunRef("trial", trial.key),
                name=trial.name,
                description=_trial_description(self._study, trial),
                parameters=dict(trial.parameters),
                tags={**trial.facts, **phases, schema.TAG_ROLE: trial.role},
            )
        )

    def _stage_ended(self, stage: Stage) -> None:
        users = self._study.users.get(stage.key, ())
        outcome, _, _ = self._end_of(stage)
        for trial, _ in users:
            self._announce(trial)
        if users and outcome and self._study.shared(stage):
            self._publish_shared(stage, outcome, users)
        for trial, phase in users:
            self._phase_ended(trial, phase, stage)

    def _phase_ended(self, trial: Trial, phase: str, stage: Stage) -> None:
        outcome, why, for_good = self._end_of(stage)
        tags = {schema.TAG_OUTCOME_PREFIX + phase: why}
        if outcome:
            tags[schema.TAG_SUMMARY_PREFIX + phase] = _summary(outcome)
        own = outcome is not None and not self._study.shared(stage)
        self._publisher.log(
            RunRef("trial", trial.key),
            f"{phase} of trial {trial.name!r}",
            points=(lambda: self._points(stage, phase)) if own else tuple,
            tags=tags,
        )
        self._open.setdefault(trial.key, {})[phase] = for_good
        examples = outcome.summary.get(EXAMPLES) if outcome else None
        if isinstance(examples, list):  # older fits of prompts gave their numbers of examples this name
            self._publish_examples(trial, phase, examples)
        self._finish_ended(trial)

    def _publish_examples(self, trial: Trial, phase: str, rows: list[dict[str, Any]]) -> None:
        """As a table that MLflow's page of the run shows."""
        ref, tables = RunRef("trial", trial.key), self._tables.setdefault(trial.key, {})
        columns = schema.EXAMPLE_COLUMNS
        table = {"columns": columns, "data": [[row[column] for column in columns] for row in rows]}
        self._publisher.artifact(ref, schema.examples_of(phase), json.dumps(table))
        tables[phase] = {"path": schema.examples_of(phase), "type": "table"}
        tags = {"mlflow.loggedArtifacts": json.dumps(list(tables.values()))}
        self._publisher.log(ref, f"examples of trial {trial.name!r}", tags=tags)

    def _finish_ended(self, trial: Trial) -> None:
        """End the run of a trial whose phases have all ended, unless it is held."""
        if self._ended(trial) and trial.key not in self._held:
            diverged = any(
                end.status == "diverged" for end in map(self._plan.outcomes.get, _keys(trial)) if end is not None
            )
            whole = all(self._open[trial.key].values())
            status = "FINISHED" if whole and not diverged else "FAILED"
            self._publisher.finish(RunRef("trial", trial.key), status, complete=whole)

    def _publish_shared(self, stage: Stage, outcome: Outcome, users: tuple[tuple[Trial, str], ...]) -> None:
        ref = RunRef("stage", stage.folder_name)
        known = not self._study.identity  # a search may add more users
        count = len(users) if known else "several"
        self._publisher.ensure(
            Run(
                ref=ref,
                name=f"{self._study.title(stage)} (shared)",
                description=f"Computed once for {count} trials. Metrics are `stage/<task>/<measure>`; the step is "
                "tokens since the phase began.",
                parameters=_common([trial.parameters for trial, _ in users]) if known else {},
            )
        )
        self._publisher.log(
            ref,
            f"shared stage {self._study.title(stage)!r}",
            points=lambda: self._points(stage, schema.STAGE_PHASE),
            tags={schema.TAG_SUMMARY_PREFIX + schema.STAGE_PHASE: _summary(outcome)},
        )
        self._publisher.finish(ref, "FINISHED" if outcome.status == "complete" else "FAILED")

    def _end_of(self, stage: Stage) -> tuple[Outcome | None, str, bool]:
        """The outcome if there is one, the end as text, and whether it is final: a rerun would not change it."""
        if outcome := self._plan.outcomes.get(stage.key):
            return outcome, outcome.status, True
        if reason := self._plan.failures.get(stage.key):
            return None, f"failed: {reason}"[:_LONGEST_TAG], False
        return None, f"blocked: {self._plan.blocked[stage.key]}"[:_LONGEST_TAG], not self._plan.failures

    def _ended_groups(self) -> tuple[dict[str, Any], ...]:
        return self._plan.outcomes, self._plan.blocked, self._plan.failures

    def _ended(self, trial: Trial) -> bool:
        return len(self._open.get(trial.key, ())) == len(trial.stages)

    def _points(self, stage: Stage, phase: str) -> Iterator[Point]:
        """The stage's points, timestamped with its end: the same whenever they are published."""
        timestamp = self._ended_at(stage)
        for step, name, value in self._store.points(stage).iter_rows():
            yield Point(f"{phase}/{name}", step, value, timestamp)

    def _ended_at(self, stage: Stage) -> int:
        """Milliseconds; 0 for a stage that is not complete."""
        done = self._store.done(self._store.home(stage))
        return int(datetime.fromisoformat(done.ended).timestamp() * 1000) if done else 0


def _keys(trial: Trial) -> list[str]:
    return [stage.key for stage in trial.stages.values()]


def _common(parameters: list[dict[str, Any]]) -> dict[str, Any]:
    """The parameters that all of them have with the same value."""
    first, *others = parameters
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _summary(outcome: Outcome) -> str:
    """The summary as JSON, without examples; without nested values if it is too long for a tag."""
    summary = {
        name: value for name, value in outcome.summary.items() if not (name == EXAMPLES and isinstance(value, list))
    }
    text = json.dumps(summary, sort_keys=True)
    if len(text) > _LONGEST_TAG:
        plain = {name: value for name, value in summary.items() if not isinstance(value, (dict, list))}
        text = json.dumps(plain, sort_keys=True)
    return text


def _sweep_description(study: Study) -> str:
    declaration = study.declaration
    controls = "\n".join(f"- {control.kind}: {control.label}" for control in declaration.controls)
    axes = "\n".join(f"- {axis.label}: {', '.join(map(str, axis.values))}" for axis in declaration.axes)
    return (
        f"**{declaration.title}**\n\n{declaration.question}\n\n{declaration.reading}\n\n"
        f"What varies:\n{axes}\n\nControls:\n{controls}\n\n"
        "Metric names are `<phase>/<task>/<measure>`; the step is tokens since the phase began. "
        "A stage that several trials share has a run of its own (`stage/<task>/<measure>`)."
    )


def _trial_description(study: Study, trial: Trial) -> str:
    lines = [f"Trial of {study.declaration.title} ({trial.role})."]
    for phase, stage in trial.stages.items():
        where = f"shared, see the run of `{stage.folder_name}`" if study.shared(stage) else f"metrics `{phase}/...`"
        lines.append(f"- {phase}: {stage.label} ({where})")
    return "\n".join(lines)


def _setting(value: Any) -> Any:
    """A setting as on the command line: several values are separated by spaces."""
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else value
