"""`--results s3://...`: the runs are read where this machine's sweeps published them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from analysis.__main__ import main
from analysis.errors import UserError
from analysis.runs.places import results_folder, tracking_uri_of
from halflife.store.remote import copy_of
from tests.analysis.conftest import SMALL

BUCKET = "s3://laboratory/results"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HALFLIFE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.mark.parametrize("given", [BUCKET, "s3:/laboratory/results", f"{BUCKET}/"])
def test_a_bucket_is_read_and_its_report_written_in_its_local_copy(
    small_uri: str, given: str, capsys: pytest.CaptureFixture[str]
):
    copy_of("s3://laboratory/other")
    copy = copy_of(BUCKET)
    shutil.copy(small_uri.removeprefix("sqlite:///"), copy / "mlflow.db")
    assert results_folder(Path(given)) == copy
    main(["sweeps", "--results", given])
    assert SMALL.study in capsys.readouterr().out


def test_the_environment_may_name_the_bucket(monkeypatch: pytest.MonkeyPatch):
    copy = copy_of(BUCKET)
    (copy / "mlflow.db").touch()
    monkeypatch.setenv("HALFLIFE_RESULTS", BUCKET)
    assert tracking_uri_of(None) == f"sqlite:///{copy / 'mlflow.db'}"


@pytest.mark.parametrize("copied", [False, True])
def test_a_bucket_not_published_from_here_is_one_line_that_says_what_is_needed(
    copied: bool, capsys: pytest.CaptureFixture[str]
):
    if copied:
        copy_of(BUCKET)
    with pytest.raises(SystemExit) as end:
        main(["report", SMALL.study, "--results", BUCKET])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.count("\n") == 1
    assert "pass --tracking-uri" in error
    assert "or run the study's command here" in error


def test_no_folder_named_like_a_bucket_is_created(tmp_path: Path, cache: Path):
    with pytest.raises(UserError):
        tracking_uri_of(Path(BUCKET))
    assert results_folder(Path(BUCKET)) == Path("results")  # for what --tracking-uri reads
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_mark_is_skipped(cache: Path):
    for name, text in (("a", b"{"), ("b", b"[]"), ("c", b"\xff")):
        (cache / name).mkdir(parents=True)
        (cache / name / "bucket.json").write_bytes(text)
    assert results_folder(Path(BUCKET)) == Path("results")
