"""A study of fake stages."""

from __future__ import annotations

from typing import Any

from halflife.sweep.study import Study, Trial
from halflife.tracking import schema
from tests.sweep.fakes import Fake

CONTROLS = (
    schema.Control(kind="positive", label="cause kept", role="positive"),
    schema.Control(kind="absent", label="never had it", role="absent"),
    schema.Control(kind="null", label="untriggered", task="untriggered"),
)


def declaration(**changes: Any) -> schema.Declaration:
    settings: dict[str, Any] = {
        "study": "fakes",
        "title": "Fake study",
        "question": "Does it run?",
        "reading": "Hits over trials.",
        "preset": "smoke",
        "axes": (schema.Axis(name="branch", label="branch", values=(0, 1)),),
        "outcomes": (schema.Outcome(name="skill", label="skill", phase="branch", task="skill"),),
        "controls": CONTROLS,
        "figures": (),
        "settings": {"sizes": "1k"},
    }
    return schema.Declaration(**{**settings, **changes})


def study(trunks: int = 2, branches: int = 2, *, deeds: dict[str, str] | None = None, **stage: Any) -> Study:
    """`trunks` shared trunks with `branches` trials on each; `deeds` by stage name. Roles alternate."""
    deeds = deeds or {}
    roles = ("treatment", "positive", "absent")
    trials = []
    for trunk_number in range(trunks):
        name = f"trunk{trunk_number}"
        trunk = Fake(name=name, deed=deeds.get(name, ""), **stage)
        for number in range(branches):
            name = f"branch{trunk_number}.{number}"
            branch = Fake(name=name, parents_=(trunk,), deed=deeds.get(name, ""), **stage)
            trials.append(
                Trial(
                    name=name,
                    parameters={"trunk": trunk_number, "branch": number},
                    stages={"trunk": trunk, "branch": branch},
                    role=roles[len(trials) % 3],
                )
            )
    present = {trial.role for trial in trials}
    controls = tuple(control for control in CONTROLS if not control.role or control.role in present)
    measured = tuple(
        schema.Control(kind=control.kind, label=control.label, task="other")
        for control in CONTROLS
        if control not in controls
    )
    return Study(declaration=declaration(controls=controls + measured), trials=tuple(trials))
