"""An MLflow store in memory that can be down, lose a response, or reject a request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class Refused(Exception):
    error_code = "INVALID_PARAMETER_VALUE"


class AlreadyThere(Exception):
    error_code = "RESOURCE_ALREADY_EXISTS"


class Page(list[Any]):
    token = None


@dataclass
class FakeStore:
    """The methods of an MlflowClient that the publisher uses."""

    down: bool = False
    lose_answers: int = 0
    """Number of calls that take effect and then fail."""
    refuse: set[str] = field(default_factory=set)
    """Names of metrics that are rejected; `restore` rejects restoring an experiment."""
    make_experiment_meanwhile: bool = False
    """Another client creates the experiment between our query and our creating it."""
    experiments: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, Any] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    """Ids of runs that were deleted in MLflow's page."""
    calls: list[str] = field(default_factory=list)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.down:
            raise ConnectionError("the server is down")

    def _answer(self, value: Any = None) -> Any:
        if self.lose_answers:
            self.lose_answers -= 1
            raise ConnectionError("the answer got lost")
        return value

    def get_experiment_by_name(self, name: str) -> Any:
        self._call("get_experiment_by_name")
        return self.experiments.get(name)

    def create_experiment(self, name: str, artifact_location: str | None = None, tags: Any = None) -> str:
        self._call("create_experiment")
        if self.make_experiment_meanwhile:
            self.make_experiment_meanwhile = False
            self.create_experiment(name)
            raise AlreadyThere(name)
        self.experiments[name] = SimpleNamespace(
            experiment_id="1", lifecycle_stage="active", artifact_location=artifact_location, tags=dict(tags or {})
        )
        return self._answer("1")

    def set_experiment_tag(self, experiment_id: str, name: str, value: str) -> None:
        self._call("set_experiment_tag")
        (found,) = [each for each in self.experiments.values() if each.experiment_id == experiment_id]
        found.tags[name] = value

    def search_runs(self, experiments: list[str], where: str, max_results: int, page_token: Any = None) -> Page:
        self._call("search_runs")
        wanted = dict(re.findall(r"tags\.`(.*?)` = '(.*?)'", where))
        return Page(
            run
            for run in self.runs.values()
            if wanted.items() <= run.data.tags.items() and run.info.run_id not in self.deleted
        )

    def restore_experiment(self, experiment_id: str) -> None:
        self._call("restore_experiment")
        if "restore" in self.refuse:
            raise Refused("not yours")
        (found,) = [each for each in self.experiments.values() if each.experiment_id == experiment_id]
        found.lifecycle_stage = "active"
        self.deleted.clear()

    def list_artifacts(self, run_id: str) -> list[Any]:
        self._call("list_artifacts")
        return [SimpleNamespace(path=name) for name in self.runs[run_id].data.artifacts]

    def create_run(self, experiment: str, tags: dict[str, str], run_name: str) -> Any:
        self._call("create_run")
        number = f"run{len(self.runs)}"
        run = SimpleNamespace(
            info=SimpleNamespace(run_id=number, name=run_name, status="RUNNING", start_time=len(self.runs)),
            data=SimpleNamespace(tags=dict(tags), params={}, points=[], metrics={}, artifacts={}),
        )
        self.runs[number] = run
        return self._answer(run)

    def update_run(self, run_id: str, status: str) -> None:
        self._call("update_run")
        self.runs[run_id].info.status = status

    def set_terminated(self, run_id: str, status: str) -> None:
        self._call("set_terminated")
        self.runs[run_id].info.status = status

    def log_text(self, run_id: str, text: str, name: str) -> None:
        self._call("log_text")
        self.runs[run_id].data.artifacts[name] = text

    def log_artifacts(self, run_id: str, folder: str, name: str) -> None:
        self._call("log_artifacts")
        self.runs[run_id].data.artifacts[name] = folder

    def log_batch(self, run_id: str, metrics: list[Any], params: Sequence[Any] = (), tags: Sequence[Any] = ()) -> None:
        self._call("log_batch")
        assert len(metrics) <= 1000
        if any(metric.key in self.refuse for metric in metrics):
            raise Refused("no such metric")
        data = self.runs[run_id].data
        if any(data.params.get(param.key, param.value) != param.value for param in params):
            raise Refused("a parameter cannot be changed")
        data.points += [(metric.key, metric.step, metric.value, metric.timestamp) for metric in metrics]
        data.metrics.update({metric.key: metric.value for metric in metrics})
        data.params.update({param.key: param.value for param in params})
        data.tags.update({tag.key: tag.value for tag in tags})
        self._answer()
