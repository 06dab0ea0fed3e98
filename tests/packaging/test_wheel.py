"""The wheel: what a user installs never runs a folder of the user's own that is called analysis."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.analysis import planted
from tests.analysis.conftest import SMALL

ROOT = Path(__file__).parents[2]
OWN = 'raise SystemExit("the user\'s own analysis was imported")\n'
EVERY_MODULE = """
import importlib, pkgutil, sys
import halflife, halflife.analysis
from halflife import results
for found in pkgutil.walk_packages(halflife.analysis.__path__, "halflife.analysis."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
print(results.load(sys.argv[1], results=sys.argv[2]).trials.height)
print("analysis" in sys.modules, halflife.__file__, sys.modules[results.Law.__module__].__file__)
"""
LAW = """
import numpy as np
from halflife.results import Parameter, law

@law(name="own", formula="y = a exp(-x/T)", source="none", decays=True, parameters=(
    Parameter(name="a", low=0, high=10, unit="y"), Parameter(name="T", low=1e-6, high=1e6, log=True, unit="x")))
def own(x, a, T):
    return a * np.exp(-x / T)
"""


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with the hatchling that is installed, else with one that pip fetches."""
    folder = tmp_path_factory.mktemp("wheel")
    isolated = [] if importlib.util.find_spec("hatchling") is None else ["--no-build-isolation"]
    pip("wheel", *isolated, "--no-deps", "--wheel-dir", folder, ".")
    (built,) = folder.glob("halflife-*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--target", folder, wheel)
    return folder


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A folder to work in, with an analysis of its own."""
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis/__init__.py").write_text(OWN)
    return tmp_path


def run(user: Path, path: str, *command: str | Path) -> str:
    """Output of a command in the user's folder, with `path` as PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([*map(str, command)], cwd=user, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_claims_one_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "halflife",
        next(n for n in names if "METADATA" in n).split("/")[0],
    }
    files = (path for path in (ROOT / "analysis").rglob("*.*") if path.suffix in (".py", ".html", ".css"))
    assert {f"halflife/{path.relative_to(ROOT).as_posix()}" for path in files} | {"halflife/py.typed"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or "tests" in name]


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "."], ids=["an empty entry of PYTHONPATH", "a dot in PYTHONPATH"])
def test_console_scripts_run_where_the_user_has_an_analysis(site: Path, user: Path, before: str) -> None:
    (user / "table.csv").write_text("x,y\n" + "\n".join(f"{x},{2 * 0.5**x}" for x in range(9)))
    (user / "mylaw.py").write_text(LAW)
    (user / "results").mkdir()
    path = f"{before}{os.pathsep}{site}"
    with pytest.raises(AssertionError, match="the user's own analysis was imported"):  # it does stand first
        run(user, path, sys.executable, "-c", "import analysis")
    fit = ("fit", "table.csv", "--law", "mylaw.py:own", "--x", "x", "--y", "y")
    assert "half-life  1 " in run(user, path, site / "bin/halflife-analysis", *fit)
    assert "usage: halflife-analysis" in run(user, path, site / "bin/halflife-analysis", "--help")
    assert run(user, path, site / "bin/halflife", "ls") == "0 stages, 0 bytes, in results\n"


@pytest.mark.slow
def test_a_script_beside_the_users_analysis_reads_runs(site: Path, user: Path) -> None:
    planted.write(user / "results", SMALL)
    (user / "script.py").write_text(EVERY_MODULE)
    trials, where = run(user, str(site), sys.executable, "script.py", SMALL.study, "results").splitlines()
    assert int(trials) > 0
    seen, package, law = where.split()
    assert seen == "False"
    assert Path(package).is_relative_to(site)
    assert Path(law).is_relative_to(site / "halflife/analysis")
