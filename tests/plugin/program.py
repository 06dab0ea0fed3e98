"""A study of plug-ins, in a process of its own: python -m tests.plugin.program RESULTS [--lost]."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from halflife.data.mixture import Mixture, Source
from halflife.data.tokenizers import Bytes
from halflife.evaluation.probes import Ends, Evaluation, TaskProbe
from halflife.models.ladder import Rung
from halflife.stages.measure import Measure
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.sweep.launch import run
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study, Trial
from halflife.tasks.families import Family
from halflife.tracking import schema
from halflife.training.objectives import NextToken
from halflife.training.optimizers import AdamW
from tests.plugin.added import CountParameters, FirstDirection, Silenced, ZLoss
from tests.sweep.helpers import declaration

LANGUAGE = Family(kind="C", size=4, modulus=7).languages[0]
TRUNK = Train(
    start=Rung(size="20k"),
    mixture=Mixture(sources=(Source(corpus=LANGUAGE, loss="answers"),), sequence=64),
    tokens=1024,
    batch_tokens=256,
    optimizer=AdamW(learning_rate=0.01),
    objectives=(NextToken(), ZLoss(strength=0.1)),
    evaluations=(Evaluation(name="skill", probe=TaskProbe(tasks=(LANGUAGE,), trials=4), at=Ends()),),
)


def study() -> Study:
    plain = Subject(model=Checkpoint(stage=TRUNK))
    edited = replace(plain, edits=(Silenced(directions=2),))
    skill, first = TRUNK.evaluations[0], Evaluation(name="first", probe=FirstDirection(letters="abc"))
    trials = tuple(
        Trial(
            name=f"{role} {number}",
            parameters={"branch": number, "size": "20k", "seed": 0},
            stages={
                "trunk": TRUNK,
                "branch": Measure(subject=subject, evaluations=(skill, first)),
                "count": CountParameters(subject=subject),
            },
            role=role,
        )
        for number, (role, subject) in enumerate((("treatment", edited), ("positive", plain), ("absent", plain)))
    )
    return Study(declaration=declaration(study="plugins", outcomes=(OUTCOME,)), trials=trials)


OUTCOME = schema.Outcome(name="skill", label="skill", phase="branch", task="skill")


def lost(made: Study) -> Study:
    """With one stage only, of a module that is gone before the workers start."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(Path(__file__).with_name("added.py"), Path(folder) / "lost.py")
        sys.path.insert(0, folder)
        kind = importlib.import_module("lost").CountParameters
        sys.path.remove(folder)
    counted = kind(subject=Subject(model=Rung(size="20k"), tokenizer=Bytes()))
    return replace(made, trials=tuple(replace(trial, stages={"count": counted}) for trial in made.trials))


def main() -> None:
    made = lost(study()) if "--lost" in sys.argv else study()
    result = run(made, ExecutionSite(results=Path(sys.argv[1]), device="cpu", max_concurrent=2))
    print("REPORT " + json.dumps(asdict(result), default=str))
    sys.exit(result.exit_code)


if __name__ == "__main__":
    main()
