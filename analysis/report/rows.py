"""Rows of a report: checks, axes, counts, progress, efficiency, provenance."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from analysis.answers.write import declared
from analysis.checks.check import Check
from analysis.checks.completeness import EARLY, stopped_early
from analysis.checks.remedies import TRUNK
from analysis.checks.sweep import so_far
from analysis.decay.design import setting_axes, value_text, values_of
from analysis.runs.study import StudyData
from analysis.stats.format import listed, plural, short
from halflife.tracking import schema

SHOWN_VALUES = 8
"""Of a setting, in the line that opens a report."""


def check_row(check: Check) -> dict[str, Any]:
    state = {True: ("holds", "✓"), False: ("fails", "✗"), None: ("unknown", "–")}[check.passed]
    if check.reading:
        state = ("a reading", "·")
    return {"check": check, "state": state[0], "sign": state[1]}


def axis_rows(data: StudyData) -> list[dict[str, Any]]:
    varied = {axis.name for axis in setting_axes(data)}
    rows = []
    for axis in data.declaration.axes:
        values = values_of(data, axis) if axis.name in varied else list(axis.values)
        text = short if axis.name == "parameters" else value_text
        shown = ", ".join(text(value) for value in values)
        rows.append({"label": axis.label, "values": shown, "unit": axis.unit, "varies": len(values) > 1})
    return rows + _settings(data)


def _settings(data: StudyData) -> list[dict[str, Any]]:
    """The settings that change what is learned and how long it is kept, which no axis has; of trials with a trunk."""
    if f"stage_{TRUNK}" not in data.trials.columns:
        return []
    levers, settings = data.declaration.levers, data.declaration.settings
    names = (levers.trunk, levers.branch, *levers.dose, levers.rate)
    own = {name: value for name in names if (value := settings.get(name)) and not isinstance(value, list | tuple)}
    return [
        {"label": name.replace("_", " "), "values": f"{value:,}", "unit": "", "varies": False}
        for name, value in own.items()
    ]


def counted(data: StudyData) -> str:
    roles = data.trials.group_by("role").len().sort("role", descending=True).rows()
    sizes = data.trials["size"].n_unique() if "size" in data.trials.columns else 0
    seeds = data.trials["seed"].n_unique() if "seed" in data.trials.columns else 0
    named = listed([plural(count, "treatment" if role == "treatment" else f"{role} control") for role, count in roles])
    over = f"{plural(sizes, 'size')} and {plural(seeds, 'seed')}"
    return f"{plural(data.trials.height, 'trial')} over {over}: {named}."


def varied(data: StudyData) -> str:
    """What differs between the treatments besides size and seed, which `counted` gives."""
    rows = []
    for axis in setting_axes(data):
        values = [value_text(value) for value in values_of(data, axis)]
        shown = listed(values) if len(values) <= SHOWN_VALUES else f"{len(values)} values, {values[0]} to {values[-1]}"
        rows.append(f"{axis.label[:1].lower()}{axis.label[1:]} ({shown})")
    return f"What was varied: {'; '.join(rows)}." if rows else ""


def progress(data: StudyData, *, brief: bool) -> dict[str, Any]:
    """How far a running sweep is. `brief`: the page lacks what takes long to draw."""
    phases = [name.removeprefix("stage_") for name in data.trials.columns if name.startswith("stage_")]
    open_phases, done = dict.fromkeys(phases, 0), 0
    for row in data.trials.iter_rows(named=True):
        ahead = [phase for phase in phases if row[f"stage_{phase}"] and not row.get(f"outcome_{phase}")]
        done += not ahead
        for phase in ahead:
            open_phases[phase] += 1
    missing = [f"{phase} of {plural(count, 'trial')}" for phase, count in open_phases.items() if count]
    if data.running:
        state = "This sweep is running."
    elif data.unfinished:
        mend = stopped_early(data)
        state = "This sweep is unfinished: it was interrupted, and the same command resumes it."
        if mend:
            state = f"{EARLY[:1].upper()}{EARLY[1:]}. Remedy: {mend}; --go-on computes the rest all the same."
    else:
        state = "This sweep has ended."
    return {
        "state": state, "failing": [check.name for check in so_far(data)] if data.unfinished else [],
        "done": done, "begun": data.trials.height, "planned": data.sweep.tags.get(schema.TAG_TRIALS),
        "missing": listed(missing), "brief": brief, "reload": data.running,
    }  # fmt: skip


def efficiency_rows(totals: dict[str, float]) -> list[tuple[str, str]]:
    """The cost of the sweep, as far as it was recorded."""
    rows = (
        ("efficiency", "Share of slot time spent in training and evaluation", lambda x: f"{x:.2f}"),
        ("wall_seconds", "Wall-clock time, seconds", lambda x: f"{x:,.0f}"),
        ("slots", "Slots", lambda x: f"{x:g}"),
        ("compute_seconds", "Seconds in training and evaluation", lambda x: f"{x:,.0f}"),
        ("stages_run", "Stages run", lambda x: f"{x:g}"),
        ("stages_cached", "Stages already in the store", lambda x: f"{x:g}"),
        ("stages_failed", "Stages failed", lambda x: f"{x:g}"),
        ("tokens_trained", "Tokens trained", short),
        ("tokens_unshared", "Tokens without trunk sharing", short),
    )
    return [(label, text(totals[f"sweep/{name}"])) for name, label, text in rows if f"sweep/{name}" in totals]


def provenance(data: StudyData, tracking_uri: str) -> dict[str, Any]:
    """Everything needed to reproduce the numbers."""
    tags = data.sweep.tags
    stages = {
        folder for name in data.trials.columns if name.startswith("stage_") for folder in data.trials[name].drop_nulls()
    }
    try:
        versions = json.loads(tags.get(schema.TAG_VERSIONS) or "{}")
    except json.JSONDecodeError:
        versions = {"": tags[schema.TAG_VERSIONS]}
    seeds = sorted(data.trials["seed"].drop_nulls().unique()) if "seed" in data.trials.columns else []
    asks = bool(data.declaration.questions)
    rows = [
        ("Study and preset", f"{data.declaration.study}, {data.declaration.preset}"),
        ("Sweep", tags.get(schema.TAG_SWEEP, "")),
        ("Started", datetime.fromtimestamp(data.sweep.started / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("Commit", tags.get(schema.TAG_COMMIT) or tags.get("mlflow.source.git.commit", "")),
        ("Uncommitted changes", tags.get(schema.TAG_CHANGES, "")),
        ("Seeds", ", ".join(map(str, seeds))),
        ("Questions declared", f"{declared(data)}, hash {data.declaration.digest[:12]}" if asks else ""),
        ("Looks at numbers of seeds", ", ".join(map(str, data.declaration.looks))),
        ("Pilot seeds, left out", ", ".join(map(str, data.declaration.pilot_seeds))),
        ("Stages", f"{len(stages)} distinct" if stages else ""),
        ("Tracking store", tracking_uri),
    ]
    return {
        "command": tags.get(schema.TAG_COMMAND) or tags.get("mlflow.source.name", ""),
        "rows": [(label, value) for label, value in rows if value],
        "versions": sorted(versions.items()) if isinstance(versions, dict) else [],
        "settings": json.dumps(data.declaration.settings, indent=2, sort_keys=True, default=str),
        "stages": sorted(stages),
    }


def slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")
