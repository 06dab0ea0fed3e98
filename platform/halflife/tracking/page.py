"""What MLflow's page of an experiment shows first: its description, and a view of its runs with the few columns that
matter.

MLflow (3.17) takes an experiment of unknown kind for a language-model application. A view is a tag of the experiment,
opened by its name in the address, whatever MLflow's page shows first.
"""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing

from halflife.tracking import schema
from halflife.tracking.schema import Declaration

KIND = ("mlflow.experimentKind", "custom_model_development")
NOTE = "mlflow.note.content"
VIEW = "halflife"
"""Of the address `.../runs?viewStateShareKey=halflife`"""
MOST = 3
"""Results among the columns"""
WIDTH = 160
"""Of their columns, in pixels"""
_LINKS = re.compile(r" *\[Report of the newest sweep\][^\n]*")


def experiment_tags(declaration: Declaration) -> dict[str, str]:
    return dict([KIND, (f"mlflow.sharedViewState.{VIEW}", _view(declaration))])


def results(declaration: Declaration) -> list[str]:
    """Names of the results of a trial, those of the first questions first: success at the drop, then each quantity."""
    asked = sorted(declaration.questions, key=lambda question: not question.primary)
    named = [name for question in asked for name in question.quantities]
    names = dict.fromkeys([*named, *(quantity.name for quantity in declaration.quantities)])
    return [*([schema.AT_THE_DROP] if declaration.outcomes else []), *names]


def _view(declaration: Declaration) -> str:
    """The trials' runs with their results, role, size, seed and what else varies, in the order in which they began."""
    varied = [axis.name for axis in declaration.axes if len(axis.values) > 1]
    parameters = [*dict.fromkeys(["size", "seed", *varied])]
    if "size" in parameters:
        parameters = [name for name in parameters if name != "parameters"]
    numbers = [f"metrics.`{schema.RESULT_PHASE}/{name}`" for name in results(declaration)[:MOST]]
    columns = [*numbers, f"tags.`{schema.TAG_ROLE}`", *(f"params.`{name}`" for name in parameters)]
    view = {
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict.fromkeys(numbers, WIDTH),
        "searchFilter": f"tags.`{schema.TAG_KIND}` = 'trial'",
        "orderByKey": "attributes.`Created`",
        "orderByAsc": True,
        "runsHiddenMode": "HIDE_ALL",
    }
    return json.dumps(view)


def described(note: str, experiment: str, run: str) -> str:
    """The experiment's description with links to the report of the sweep of this run, and to the view of its runs, in
    its first line, which MLflow always shows. What people wrote there stays."""
    here = f"#/experiments/{experiment}/runs"
    links = (
        f"[Report of the newest sweep]({here}/{run}/artifacts/report/report.html) · "
        f"[Runs]({here}?viewStateShareKey={VIEW})"
    )
    first, *others = _LINKS.sub("", note).split("\n")
    return "\n".join([f"{first} {links}".lstrip(), *others])


def addresses(tracking_uri: str, server: str) -> list[str]:
    """Of the runs of a local store's studies, in their view if there is one, on a server that shows it: lines for
    people."""
    path = schema.sqlite_path(tracking_uri)
    if not tracking_uri.startswith("sqlite:") or not path.exists():
        return []
    view = f"mlflow.sharedViewState.{VIEW}"
    with closing(sqlite3.connect(path)) as database:
        found = database.execute(
            "SELECT name, experiment_id, max(key = ?) FROM experiments NATURAL JOIN experiment_tags "
            "WHERE key IN (?, ?) AND lifecycle_stage = 'active' GROUP BY name ORDER BY name",
            (view, view, schema.TAG_STUDY),
        ).fetchall()  # fmt: skip
    return [
        f"{name}: {server}/#/experiments/{number}/runs{f'?viewStateShareKey={VIEW}' if shared else ''}"
        for name, number, shared in found
    ]
