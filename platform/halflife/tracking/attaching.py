"""Adds what a report says to runs that are published: its files, answers, the numbers of trials, links to them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halflife.errors import UserError
from halflife.secrets import masked
from halflife.tracking import page, schema
from halflife.tracking.experiments import one_line
from halflife.tracking.publisher import BATCH, connect


def attach(
    tracking_uri: str, *, experiment: str, sweep: str, folder: Path, name: str, tags: dict[str, str] | None = None,
    numbers: Mapping[str, Mapping[str, float]] | None = None,
) -> str:  # fmt: skip
    """Store the files below `folder` as artifacts `name/...` of the sweep's run, and these tags; as metrics of its
    trials' runs the `numbers` by trial and name. The experiment's description gets links to them. Returns the id of the
    sweep's run.

    Raises UserError when the store has no such sweep, cannot be reached, or rejects the files.
    """
    try:
        return _attach(connect(tracking_uri), experiment, sweep, folder, name, tags or {}, numbers or {})
    except UserError:
        raise
    except Exception as error:
        where = masked(tracking_uri)
        raise UserError(f"{folder} could not be stored in {where}: {one_line(error)}") from error


def _attach(
    client: Any, experiment: str, sweep: str, folder: Path, name: str, tags: dict[str, str],
    numbers: Mapping[str, Mapping[str, float]],
) -> str:  # fmt: skip
    found = client.get_experiment_by_name(experiment)
    where = f"tags.`{schema.TAG_KIND}` = 'sweep' and tags.`{schema.TAG_SWEEP}` = '{sweep}'"
    runs = client.search_runs([found.experiment_id], where, max_results=1) if found else []
    if not runs:
        raise UserError(f"no run of sweep {sweep} in experiment {experiment!r}: run the study's command again")
    run_id = runs[0].info.run_id
    client.log_artifacts(run_id, str(folder), name)
    for tag, value in tags.items():
        client.set_tag(run_id, tag, value)
    _log_numbers(client, found.experiment_id, sweep, numbers)
    note = page.described(found.tags.get(page.NOTE, ""), found.experiment_id, run_id)
    client.set_experiment_tag(found.experiment_id, page.NOTE, note)
    return run_id


def _log_numbers(client: Any, experiment: str, sweep: str, numbers: Mapping[str, Mapping[str, float]]) -> None:
    from mlflow.entities import Metric

    where, token = f"tags.`{schema.TAG_KIND}` = 'trial' and tags.`{schema.TAG_SWEEP}` = '{sweep}'", None
    now = int(time.time() * 1000)
    while numbers:
        runs = client.search_runs([experiment], where, max_results=BATCH, page_token=token)
        for run in runs:
            own = numbers.get(run.data.tags[schema.TAG_TRIAL], {})
            known = {f"{schema.RESULT_PHASE}/{name}": float(f"{value:.4g}") for name, value in own.items()}
            new = {key: value for key, value in known.items() if run.data.metrics.get(key) != value}
            if new:
                client.log_batch(run.info.run_id, metrics=[Metric(key, value, now, 0) for key, value in new.items()])
        token = runs.token
        if not token:
            return
