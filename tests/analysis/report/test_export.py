from __future__ import annotations

import json
from dataclasses import replace

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from analysis.__main__ import main
from analysis.decay.retention import half_lives, retention_curves
from analysis.errors import UserError
from analysis.report.export import tables, write_tables
from analysis.runs.load import load_study
from halflife.tracking import schema
from tests.analysis.conftest import SMALL


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_what_was_exported_is_read_again_as_the_same_study(small, tmp_path, format):
    write_tables(small, tmp_path, format)
    again = load_study(str(tmp_path), SMALL.study)
    assert again.declaration == small.declaration
    assert again.points.equals(small.points)
    assert again.totals == small.totals
    assert again.sweep.id == small.sweep.id
    assert again.parameters == small.parameters
    assert_frame_equal(again.trials, small.trials)
    assert_frame_equal(half_lives(retention_curves(again)), half_lives(retention_curves(small)))


def test_tables_of_a_running_sweep_say_so(small, tmp_path, caplog):
    write_tables(small, tmp_path / "ended")
    assert "so far" not in caplog.text
    write_tables(replace(small, sweep=replace(small.sweep, status="RUNNING")), tmp_path / "running")
    assert "the sweep is running: the tables contain what it has measured so far" in caplog.text


def test_every_column_is_explained(small, tmp_path):
    write_tables(small, tmp_path)
    message = pl.read_csv(tmp_path / "dictionary.csv")
    there = [(name, column) for name, frame in tables(small).items() for column in frame.columns]
    assert message.select("table", "column").rows() == there
    assert message["meaning"].null_count() == 0
    plain = message.filter(pl.col("meaning") == "parameter of the trial")["column"].to_list()
    assert set(plain) == {"documents", "corpus"}  # which the planted declaration has no axes for


def test_every_outcome_is_exported(small):
    near = schema.Outcome(name="near", label="near-trigger", phase="branch", task="near")
    both = replace(small, declaration=replace(small.declaration, outcomes=(*small.declaration.outcomes, near)))
    found = tables(both)
    assert set(found["curves"]["outcome"]) == {"attack", "near"}
    assert set(found["areas"]["outcome"]) == {"attack", "near"}
    first = found["half_lives"].filter(pl.col("outcome") == "attack")
    assert_frame_equal(first, half_lives(retention_curves(small)))


def test_missing_values_are_empty_and_never_zero(rough, tmp_path):
    write_tables(rough, tmp_path)
    rows = pl.read_csv(tmp_path / "half_lives.csv").filter(pl.col("kind") == "censored")
    assert rows.height
    assert rows["estimate"].null_count() == rows["high"].null_count() == rows.height


def test_anyones_tables_become_a_study(tmp_path):
    """Only points: every trial a treatment, every task with counts an outcome."""
    lines = ["trial,phase,step,name,value"]
    for step, hits in ((0, 10), (100, 9), (200, 2), (400, 0)):
        lines += [f"mine,after,{step},french/hits,{hits}", f"mine,after,{step},french/trials,10"]
    lines += ["mine,after,100,other/loss,", "mine,after,200,other/loss,NaN"]
    (tmp_path / "points.csv").write_text("\n".join(lines))
    data = load_study(str(tmp_path), "mine")
    assert [outcome.task for outcome in data.declaration.outcomes] == ["french"]
    assert data.points.filter(pl.col("name") == "other/loss").is_empty()  # missing stays missing
    times = half_lives(retention_curves(data))
    row = times.row(by_predicate=(pl.col("criterion") == "success") & (pl.col("clock") == "tokens"), named=True)
    assert (row["kind"], row["low"], row["high"]) == ("observed", 100, 200)


def test_numbers_of_anyones_trials_may_be_written_in_their_own_way(tmp_path):
    lines = [
        f"{trial},branch,{step},x/{name},{value}"
        for trial in (1, 2)
        for step, hits in ((0, 8), (5, 8), (10, 1))
        for name, value in (("hits", hits), ("trials", 8))
    ]
    (tmp_path / "points.csv").write_text("\n".join(["trial,phase,step,name,value", *lines]))
    (tmp_path / "trials.csv").write_text("trial,size,parameters,seed\n1,30,3e4,0\n2,100,1e5,0")
    data = load_study(str(tmp_path), "mine")
    assert data.trials.select("trial", "size", "parameters").rows() == [("1", "30", 30_000), ("2", "100", 100_000)]
    assert half_lives(retention_curves(data)).is_empty() is False


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("points.csv", "trial,phase,step,value\nt,p,0,1", "no column 'name'"),
        ("points.csv", "trial,phase,step,name,value\nt,p,0,a/hits,many", "must be numbers"),
        ("points.csv", "trial,phase,step,name,value\nt,p,0,a/loss,1", "counts of at least one task"),
        ("trials.csv", "run,seed\nt,0", "no column 'trial'"),
        ("trials.csv", "trial,seed\nother,0", "'t' has points but no row"),
        ("trials.csv", "trial,seed\nt,0\nt,1", "several rows of one trial"),
        ("study.json", '{"schema": 99}', "schema 99"),
        ("study.json", "[]", "cannot be read"),
        ("study.json", b"\xff\xfe", "cannot be read"),
        ("sweep.json", "[]", "cannot be read"),
        ("sweep.json", '{"color": "red"}', "cannot be read"),
        ("trials.csv", "trial,seed\nt,first", "must be whole numbers"),
    ],
)
def test_tables_that_do_not_fit_are_one_clear_line(tmp_path, name, text, message):
    (tmp_path / "points.csv").write_text("trial,phase,step,name,value\nt,p,0,a/hits,1\nt,p,0,a/trials,1")
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        load_study(str(tmp_path), "mine")
    assert "\n" not in str(caught.value)


def test_the_command_writes_the_tables_and_prints_their_paths(small_uri, tmp_path, capsys):
    main(["export", SMALL.study, "--tracking-uri", small_uri, "--out", str(tmp_path), "--format", "parquet"])
    message = capsys.readouterr().out.split()
    assert str(tmp_path / "half_lives.parquet") in message
    assert json.loads((tmp_path / "sweep.json").read_text())["tags"][schema.TAG_STUDY] == SMALL.study


def test_the_command_reports_bad_input_in_one_line(small_uri, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for arguments in (["nope"], [SMALL.study, "--out", str(tmp_path / "file" / "below")]):
        with pytest.raises(SystemExit) as caught:
            main(
                [
                    "export",
                    *arguments,
                    "--tracking-uri",
                    small_uri,
                    *(["--out", str(tmp_path)][: 2 * (len(arguments) < 2)]),
                ]
            )
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def test_no_password_leaves_with_the_tables(small, tmp_path):
    tags = {**small.sweep.tags, schema.TAG_COMMAND: "run --tracking-uri http://me:secret@host?token=secret"}
    write_tables(replace(small, sweep=replace(small.sweep, tags=tags)), tmp_path)
    assert "secret" not in (tmp_path / "sweep.json").read_text()


def test_the_sweep_of_exported_tables_is_listed_as_that_of_the_store(small, small_uri, tmp_path, capsys):
    write_tables(small, tmp_path)
    main(["sweeps", "--tracking-uri", str(tmp_path)])
    listed = capsys.readouterr().out
    assert listed.startswith(SMALL.study)
    main(["sweeps", "--tracking-uri", small_uri])
    assert listed in capsys.readouterr().out


@pytest.mark.parametrize("tables", [True, False])
def test_a_folder_without_sweeps_is_refused_in_one_line(tmp_path, capsys, tables):
    if tables:
        (tmp_path / "points.csv").write_text("trial,phase,step,name,value\n")
    with pytest.raises(SystemExit) as end:
        main(["sweeps", "--tracking-uri", str(tmp_path)])
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert str(tmp_path) in message
    assert message.count("\n") == 1
