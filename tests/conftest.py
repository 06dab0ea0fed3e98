"""What tests of several rooms share."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; two threads on a busy core wait for each other
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # else a server starts eight more processes

import pytest
from hypothesis import settings

from halflife.store.store import Store
from tests.store import s3

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

settings.register_profile("shared cores", deadline=None)  # how long an example takes is other work's doing, too
settings.load_profile("shared cores")


def failed_if_skipped(report: Report) -> Report:
    """With HALFLIFE_NO_SKIPS=1, where everything that tests need is installed, a skip is a failure."""
    if report.skipped and os.environ.get("HALFLIFE_NO_SKIPS") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped, and HALFLIFE_NO_SKIPS=1: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return failed_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return failed_if_skipped((yield))


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Address of a bucket on an S3 of our own, which the environment leads to; tests make folders in it."""
    pytest.importorskip("moto", reason="moto[server] is a local S3 (make test installs it)")
    with s3.serving():
        yield s3.BUCKET


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder that the tests of a module share."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")
