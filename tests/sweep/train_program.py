"""A driver of real training: python -m tests.sweep.train_program RESULTS TEXT WORKERS ZERO."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from halflife.stages.train import Train
from halflife.sweep.launch import run
from halflife.sweep.session import set_environment
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study, Trial
from tests.stages.training_worker import branch
from tests.sweep.helpers import CONTROLS, declaration


def stages(results: Path, text: Path) -> dict[str, Train]:
    """A trunk without dropout, long enough to be interrupted, and its branch."""
    last = branch(results, text)
    trunk = replace(last.start.stage, tokens=300 * 1024)  # pyright: ignore[reportAttributeAccessIssue]
    return {"trunk": trunk, "branch": replace(last, start=replace(last.start, stage=trunk), dropout=0.0)}


def main() -> None:
    text, workers, zero = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    set_environment()
    from halflife.sweep import tuning

    tuning.Task = partial(tuning.Task, checkpoint_seconds=0.1)  # pyright: ignore[reportAttributeAccessIssue]
    engine = {"engine": "deepspeed", "workers": workers, "zero": zero} if workers else {"engine": "torch"}
    site = ExecutionSite(results=Path(sys.argv[1]), device="cpu", **engine)  # pyright: ignore[reportArgumentType]
    trial = Trial(name="one", parameters={"branch": 0}, stages=dict(stages(site.results, text)))
    controls = tuple(replace(control, role="", task="other") for control in CONTROLS)
    made = Study(declaration=declaration(controls=controls), trials=(trial,))
    result = run(made, site)
    print("REPORT " + json.dumps(asdict(result), default=str))
    sys.exit(result.exit_code)


if __name__ == "__main__":
    main()
