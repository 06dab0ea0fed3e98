"""A study of what interventions and weights put back change, in a process of its own:
python -m tests.interpret.study_program RESULTS."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from halflife.data.mixture import Mixture, Source
from halflife.evaluation.probe import Threshold
from halflife.evaluation.probes import Ends, Evaluation, TaskProbe
from halflife.evaluation.texts import MixtureTexts
from halflife.interpret.intervention import FitIntervention, Steer
from halflife.interpret.pairs import Conditioned
from halflife.models.ladder import Rung
from halflife.models.sites import Site
from halflife.stages.edits import PutBack
from halflife.stages.measure import Measure
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.sweep.launch import run
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study, Trial
from halflife.tasks.families import Family
from halflife.tracking import schema
from halflife.training.optimizers import AdamW
from halflife.training.recipe import Snapshot
from tests.sweep.helpers import declaration

LANGUAGES = Family(kind="C", size=4, modulus=7).languages
SKILL = Evaluation(name="skill", probe=TaskProbe(tasks=LANGUAGES[:1], trials=16), at=Ends())
TRUNK = Train(
    start=Rung(size="20k"),
    mixture=Mixture(sources=(Source(corpus=LANGUAGES[0], loss="answers"),), sequence=64),
    tokens=2048,
    batch_tokens=256,
    optimizer=AdamW(learning_rate=0.01),
    evaluations=(SKILL,),
    snapshots=(Snapshot(name="perfect", when=Threshold(metric="skill/hits", threshold=1000)),),
)
BRANCH = replace(
    TRUNK,
    start=Checkpoint(stage=TRUNK),
    mixture=replace(TRUNK.mixture, sources=(Source(corpus=LANGUAGES[1], loss="answers"),)),
    snapshots=(),
)
DROPPED = Subject(model=Checkpoint(stage=BRANCH))
FIT = FitIntervention(
    subject=DROPPED,
    pairs=Conditioned(
        texts=MixtureTexts(mixture=TRUNK.mixture, count=32),
        held_out=MixtureTexts(mixture=TRUNK.mixture, count=32, seed=1),
        condition="loud ",
    ),
    sites=(Site(layer=0), Site(layer=1)),
    steps=100,
)
STEERED = replace(DROPPED, edits=(Steer(fit=FIT, site=Site(layer=1)),))
RESTORED = replace(DROPPED, edits=(PutBack(source=Checkpoint(stage=TRUNK), components=("all",)),))
NEVER = Subject(model=Checkpoint(stage=TRUNK, at="perfect"))


def measured(subject: Subject) -> Measure:
    return Measure(subject=subject, evaluations=(SKILL,))


def study() -> Study:
    trials = tuple(
        Trial(
            name=role,
            parameters={"branch": number, "size": "20k", "seed": 0},
            stages={"trunk": TRUNK, "branch": BRANCH, "vectors": FIT, "measured": measured(subject)},
            role=role,
        )
        for number, (role, subject) in enumerate(
            (("treatment", STEERED), ("positive", RESTORED), ("absent", DROPPED), ("perfect", NEVER))
        )
    )
    outcome = schema.Outcome(name="skill", label="skill", phase="measured", task="skill")
    return Study(declaration=declaration(study="inside", outcomes=(outcome,)), trials=trials)


def main() -> None:
    result = run(study(), ExecutionSite(results=Path(sys.argv[1]), device="cpu", max_concurrent=2))
    print("REPORT " + json.dumps(asdict(result), default=str))
    sys.exit(result.exit_code)


if __name__ == "__main__":
    main()
