"""`python -m analysis`: misspelt words have a nearest right one, and help shows what a flag takes."""

from __future__ import annotations

import pytest

from analysis.__main__ import COMMANDS, main


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["trned"], "unknown command 'trned', did you mean trend?"),
        ([], "no command given: expected one of report, "),
        (["trend", "t.csv", "--quantit", "y", "--axis", "x"], "trend has no flag --quantit, did you mean --quantity?"),
        (["fit", "t.csv", "--x", "a", "--tirals", "n"], "fit has no flag --tirals, did you mean --trials?"),
        (["scaling", "t.csv", "--quark", "4"], "scaling has no flag --quark (--help"),
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
