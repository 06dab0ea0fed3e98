"""`python -m analysis`: a misspelt word has a nearest right one, help shows what a flag takes, fits show progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from analysis.__main__ import COMMANDS, main
from analysis.fitting import progress
from analysis.fitting.fit import fit
from analysis.fitting.observations import Observations
from analysis.laws import LAWS


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["trned"], "unknown command 'trned', did you mean trend?"),
        ([], "no command given: expected one of report, "),
        (["trend", "t.csv", "--quantit", "y", "--axis", "x"], "trend has no flag --quantit, did you mean --quantity?"),
        (["fit", "t.csv", "--x", "a", "--tirals", "n"], "fit has no flag --tirals, did you mean --trials?"),
        (["scaling", "t.csv", "--quark", "4"], "scaling has no flag --quark: it has --"),
        (
            ["isoflop", "t.csv", "--size", "N", "--loss", "L", "--flops", "C"],
            "isoflop has no flag --flops, did you mean --budget?",
        ),
        (["associate", "t.csv", "--quantity", "y", "--with", "z"], "associate has no flag --with: it has --item, "),
        (["fit", "t.csv", "--x", "x", "--y", "y", "--error", "hubber"], "--error is 'hubber', did you mean huber?"),
        (
            ["trend", "t.csv", "--quantity", "y", "--axis", "x", "--margin", "5%"],
            "--margin is '5%': expected a number, such as 0.05 for 5% of a share",
        ),
        (["fit"], "Missing from python -m analysis fit: PATH"),
    ],
)
def test_a_misspelt_word_is_one_line_with_the_nearest_right_one(
    capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.startswith(f"error: {complaint}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_what_a_flag_takes_and_no_none(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert not end.value.code
    assert "{None}" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["fit", "report"])
def test_how_far_a_fit_is_stands_where_a_fit_was_asked_for_and_not_in_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    x = np.geomspace(1, 100, 12)
    y = np.exp(-x / 20) + 0.01 * np.sin(x)
    pl.DataFrame({"x": x, "y": y}).write_csv(tmp_path / "t.csv")

    def written(*_: Any, **named: Any) -> Path:
        fit(LAWS["exponential"], Observations(x=x, y=y), starts=16)
        return named["out"]

    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr("analysis.report.write.write_report", written)
    given = {"fit": [f"{tmp_path}/t.csv", "--law", "exponential", "--x", "x", "--y", "y", "--starts", "16"]}
    main([command, *given.get(command, ["study", "--out", str(tmp_path)])])
    assert ("% done" in capsys.readouterr().err) == (command == "fit")
