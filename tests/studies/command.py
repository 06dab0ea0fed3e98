"""A study run as a user runs it. Each has twenty seconds of CI: a preset made tiny by flags."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(study: str, *arguments: str, results: Path, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """`python studies/STUDY.py ARGUMENTS`, from its start to its end."""
    return subprocess.run(
        [sys.executable, f"studies/{study}.py", *arguments, "--results", str(results)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
