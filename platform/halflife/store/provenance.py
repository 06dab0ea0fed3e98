"""The provenance of a result: command, commit, uncommitted changes, versions, host. Recorded, never hashed."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from halflife.secrets import masked

LIBRARIES = (
    "halflife",
    "torch",
    "numpy",
    "ray",
    "deepspeed",
    "mlflow",
    "polars",
    "tokenizers",
    "safetensors",
    "transformers",
    "peft",
    "datasets",
)

ORIGIN = "HALFLIFE_ORIGIN"
"""Environment variable with the commit and changes as JSON, for code that is shipped without its repository."""


def gather() -> dict[str, Any]:
    """Provenance of the driver process as JSON data, to pass to `run_stage` when that runs in another process."""
    return {"command": command(sys.argv), **_of_the_code()}


def of_this_process() -> dict[str, Any]:
    """Provenance of the computing process."""
    return {"host": socket.gethostname(), "platform": platform.platform(), "python": platform.python_version()}


def command(arguments: list[str]) -> str:
    """The command line with secrets masked, as records may be shown to others."""
    return masked(shlex.join(arguments))


@cache
def _of_the_code() -> dict[str, Any]:
    here = Path(__file__).parent
    ours = _git(here, "ls-files", "--error-unmatch", "provenance.py")  # not a repository around some .venv
    commit = _git(here, "rev-parse", "HEAD") if ours else None
    changes = _git(here, "diff", "HEAD", "--binary") if commit else None
    shipped = json.loads(os.environ.get(ORIGIN, "{}"))
    return {
        "commit": commit.decode().strip() if commit else shipped.get("commit"),
        "changes": hashlib.sha256(changes).hexdigest() if changes else shipped.get("changes"),
        "code": code(),
        "versions": {name: version for name in LIBRARIES if (version := _version(name))},
    }


@cache
def code() -> str:
    """Digest of the package's source: hosts with equal digests run the same code."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:20]


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):  # installed without a repository
        return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
