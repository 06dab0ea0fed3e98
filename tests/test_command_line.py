"""`python -m halflife`: what cannot be parsed is one line with the nearest right word."""

from __future__ import annotations

import pytest

from halflife.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["sya", "x"], "Unrecognized options: sya, x, did you mean say?"),
        (["ls", "--result", "x"], "Unrecognized options: --result, x, did you mean --results?"),
        (["say", "x"], "Missing from python -m halflife say: STR The text to go on from. (required)"),
        ([], "Expected one of {ls, diff, gc, export, say, export-prompt, ladder, fields, ui}"),
    ],
)
def test_what_cannot_be_parsed_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {complaint}")
    assert error.count("\n") == 1


def test_help_shows_what_a_flag_takes(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["export-prompt", "--help"])
    assert not end.value.code
    shown = capsys.readouterr().out
    assert "--base PATH" in shown
    assert "{None}" not in shown
