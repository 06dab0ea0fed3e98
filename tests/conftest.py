"""What tests of several rooms share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; two threads on a busy core wait for each other
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # else a server starts eight more processes

import pytest
from hypothesis import settings

from halflife.store.store import Store
from tests.store import s3

settings.register_profile("shared cores", deadline=None)  # how long an example takes is other work's doing, too
settings.load_profile("shared cores")


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
