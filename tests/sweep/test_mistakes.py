"""Mistakes in a study's own file."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from halflife.kits.backdoor import Settings, Treatment
from halflife.sweep.mistakes import line_of


def line(call: str, **names: object) -> str:
    try:
        exec(compile(call, "own.py", "exec"), {"__name__": "__main__", **names})
    except Exception as error:
        return line_of(error, error.__traceback__)
    raise AssertionError("nothing was wrong")


def test_a_field_that_a_description_does_not_have_is_one_line_with_the_one_meant_and_all_there_are():
    said = line("Settings(sizes=('60k',), seed=2)", Settings=Settings)
    assert said.startswith("own.py:1: Settings has no seed, did you mean seeds? It has sizes, seeds, corpus, ")
    assert said.endswith("`python -m halflife fields kits.backdoor.Settings` explains each")
    assert "has no payloads, did you mean payload?" in line("Treatment(payloads=1)", Treatment=Treatment)


def test_so_is_one_that_replace_is_given():
    said = line("replace(given, payloads='copy')", replace=replace, given=Treatment())
    assert said.startswith("own.py:1: Treatment has no payloads, did you mean payload?")


@pytest.mark.parametrize("call", ["1 / 0", "Settings(1)", "int(nothing=1)", "print(ned='')"])
def test_other_errors_keep_their_traceback(call: str):
    assert line(call, Settings=Settings) == ""


def test_a_study_with_such_a_mistake_prints_one_line(tmp_path: Path):
    study = tmp_path / "own.py"
    lines = ("from halflife.kits.backdoor import Settings", "from halflife.sweep.cli import main", "Settings(seed=2)")
    study.write_text("\n".join(lines))
    run = subprocess.run([sys.executable, str(study)], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    (said,) = run.stderr.splitlines()
    assert said.startswith(f"error: {study}:3: Settings has no seed, did you mean seeds?")
