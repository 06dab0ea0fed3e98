from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import pytest

from halflife.errors import UserError
from halflife.models.ladder import Rung
from halflife.sweep.study import Study, Trial, trial
from halflife.tracking import schema
from tests.sweep.fakes import Fake
from tests.sweep.helpers import CONTROLS, declaration, study


def test_stages_named_by_several_trials_are_shared_and_listed_once():
    made = study(trunks=2, branches=3)
    assert [stage.label for stage in made.stages].count("trunk0") == 1
    shared = {stage.label for stage in made.stages if made.shared(stage)}
    assert shared == {"trunk0", "trunk1"}


def test_the_same_study_has_the_same_key_and_any_change_of_a_trial_another():
    made = study()
    assert made.key == study().key
    renamed = dataclasses.replace(made.trials[0], parameters={**made.trials[0].parameters, "branch": 7})
    assert Study(declaration=made.declaration, trials=(renamed, *made.trials[1:])).key != made.key


def test_facts_are_no_part_of_a_trials_identity():
    trial = study().trials[0]
    assert dataclasses.replace(trial, facts={"rung": "2 layers"}).key == trial.key


def test_a_study_without_trials_is_refused():
    with pytest.raises(UserError, match="has no trials"):
        Study(declaration=declaration(), trials=())


def test_two_trials_of_one_name_are_refused():
    made = study()
    with pytest.raises(UserError, match=r"several trials named 'branch0\.0'"):
        Study(declaration=made.declaration, trials=(*made.trials, made.trials[0]))


@pytest.mark.parametrize("kind", ["positive", "absent", "null"])
def test_a_study_that_lacks_a_control_is_refused(kind: str):
    controls = tuple(control for control in CONTROLS if control.kind != kind)
    with pytest.raises(UserError, match=f"declares no {kind} control"):
        Study(declaration=declaration(controls=controls), trials=study().trials)


def test_a_declared_control_without_a_trial_is_refused():
    lone = Trial(name="lone", parameters={"branch": 0}, stages={"trunk": Fake(name="t")})
    with pytest.raises(UserError, match="'cause kept' of role 'positive', but no trial has that role"):
        Study(declaration=declaration(), trials=(lone,))


def test_an_axis_that_no_trial_has_is_refused():
    axes = (schema.Axis(name="sizes", label="size", values=("1k",)),)
    with pytest.raises(UserError, match="axis 'sizes', which no trial has"):
        Study(declaration=declaration(axes=axes), trials=study().trials)


class Scored(Fake):
    @cached_property
    def tasks(self) -> tuple[str, ...]:
        return "skill", "clean@32"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"parameters": {"β₂ (Adam's)": 1, "size": "1k"}},
            r"the parameter \"β₂ \(Adam's\)\" \(such as 'β₂-Adam-s'\); exp",
        ),
        ({"facts": {"a//b": ""}}, "the tag 'a//b' "),
        ({"stages": {"after/drop": Fake(name="t")}}, "the phase 'after/drop' "),
        ({"stages": {"trunk": Scored(name="t")}}, r"the evaluation 'clean@32' \(such as 'clean-32'\); exp"),
        ({"stages": {"t" * 198: Scored(name="t")}}, "the evaluation 'skill' "),
    ],
)
def test_a_trial_with_names_that_mlflow_does_not_store_is_refused(changes: dict, reason: str):
    with pytest.raises(
        UserError, match=f"trial 'one' has names that MLflow does not store: rename .*{reason}"
    ) as error:
        Trial(**{"name": "one", "parameters": {"branch": 0}, "stages": {"trunk": Fake(name="t")}, **changes})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"study": "../fakes"}, "study '../fakes': expected a name that can be a folder's, such as 'fakes'"),
        ({"axes": (schema.Axis(name="a/b", label="b", values=(0,)),)}, "rename the axis 'a/b' "),
        ({"settings": {"a=b": 1}}, "rename the setting 'a=b' "),
        ({"objectives": (schema.Objective(name="loss@1", label="", direction="minimize"),)}, "the objective 'loss@1' "),
        ({"constraints": (schema.Constraint(name="x%", label=""),)}, "the constraint 'x%' "),
    ],
)
def test_a_declaration_with_names_that_mlflow_does_not_store_is_refused(changes: dict, reason: str):
    with pytest.raises(UserError, match=reason) as error:
        Study(declaration=declaration(**changes), trials=study().trials)
    assert "\n" not in str(error.value)


def test_a_stage_is_named_by_what_its_trials_have_in_common():
    trunk, branch = Fake(name="t"), Fake(name="b", parents_=(Fake(name="t"),))
    names = ("1m · seed 0 · plain", "1m · seed 0 · decay")
    trials = [
        Trial(name=name, parameters={"branch": 0}, stages={"trunk": trunk, **({"branch": branch} if not place else {})})
        for place, name in enumerate(names)
    ]
    controls = tuple(schema.Control(kind=kind, label=kind, task="other") for kind in ("positive", "absent", "null"))
    made = Study(declaration=declaration(controls=controls), trials=tuple(trials))
    assert made.title(trunk) == "1m · seed 0 · trunk"
    assert made.title(branch) == "1m · seed 0 · plain · branch"
    assert made.title(Fake(name="an ancestor")) == "an ancestor"


@dataclass(frozen=True)
class Cell:
    size: str
    seed: int

    @property
    def model(self) -> Rung:
        return Rung(size=self.size)


def test_a_trial_of_a_cell_says_its_size_seed_and_architecture():
    cell, stages = Cell("30k", 3), {"trunk": Fake(name="t")}
    made = trial(cell, {"batch": 8}, stages, "8 a step", "absent", role="absent", before=["family A"], poison="none")
    assert made.name == "family A · 30k · seed 3 · 8 a step · absent"
    assert made.parameters == {"size": "30k", "parameters": cell.model.parameters, "seed": 3, "batch": 8}
    assert made.facts == {"rung": cell.model.describe(), "poison": "none"}
    assert (made.role, made.stages) == ("absent", stages)


@dataclass(frozen=True, kw_only=True)
class Unreadable(Fake):
    def check(self, results):
        raise UserError(f"{self.name} cannot be read")


def test_a_study_checks_the_stages_of_the_trials_that_are_named(tmp_path):
    made = study()
    extra = Trial(name="x", parameters={"branch": 9, "size": "1m"}, stages={"trunk": Unreadable(name="t")})
    more = dataclasses.replace(made, trials=(*made.trials, extra))
    assert more.check(tmp_path, branch=0) is more
    with pytest.raises(UserError, match="t cannot be read"):
        more.check(tmp_path, size="1m")
    with pytest.raises(UserError, match="t cannot be read"):
        more.check(tmp_path)
