from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halflife.tracking import questions, schema
from halflife.tracking.check import check
from halflife.tracking.questions import (
    Against,
    Association,
    At,
    Contrast,
    Crossing,
    Curve,
    Decay,
    Frontier,
    Last,
    Mean,
    Quantity,
    Question,
    Slope,
    Trend,
)

HALF_LIFE = Quantity(
    name="half_life", label="the half-life", measure="branch/skill/logprob", unit="tokens", transform="log",
    moment=Crossing(threshold=0.5), against=Against(role="absent", how="retention"),
)  # fmt: skip
KEPT = Quantity(name="kept", label="what is kept", measure="branch/skill/hits", moment=Last())
BITS = Quantity(name="bits", label="what it takes", derived="information", unit="bits")
GAMMA = Trend(name="gamma", label="Does size slow the decay?", quantity="half_life", axis="parameters", primary=True)
WAYS = Contrast(name="ways", label="Does b keep more than a?", quantity="kept", axis="way", high="b", low="a")


@dataclass(frozen=True)
class Stage:
    tasks: tuple[str, ...] = ("skill",)
    key: int = field(default_factory=itertools.count().__next__)


@dataclass(frozen=True)
class Trial:
    parameters: dict[str, Any]
    role: str = "treatment"
    stages: dict[str, Stage] = field(default_factory=lambda: {"branch": Stage()})


TRIALS = [
    Trial({"parameters": n, "seed": seed, "way": way}, role)
    for n in (1000, 2000, 4000)
    for seed in range(5)
    for way in ("a", "b")
    for role in ("treatment", "absent")
]


def declaration(*asked: Question, **changes: Any) -> schema.Declaration:
    fields: dict[str, Any] = {
        "study": "s", "title": "", "question": "", "reading": "", "preset": "p", "controls": (), "figures": (),
        "axes": (schema.Axis(name="seed", label="seed", values=(0, 1)),),
        "outcomes": (schema.Outcome(name="skill", label="skill", phase="branch", task="skill"),),
        "quantities": (HALF_LIFE, KEPT), "questions": asked,
    }  # fmt: skip
    return schema.Declaration(**fields | changes)


names = st.text("abcdefgh_", min_size=1, max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
spans = {"start": st.none() | numbers, "end": st.none() | numbers, "clock": names}
moments = st.one_of(
    st.builds(Last), st.builds(At, amount=numbers, clock=names), st.builds(Mean, **spans), st.builds(Slope, **spans),
    st.builds(Crossing, threshold=numbers, direction=st.sampled_from(["below", "above"]), sustained=st.booleans()),
)  # fmt: skip
quantities = st.builds(
    Quantity, name=names, label=names, measure=names, moment=moments, chance=numbers,
    transform=st.sampled_from(questions.TRANSFORMS), against=st.none() | st.builds(Against, role=names),
)  # fmt: skip
common = {
    "name": names, "label": names, "quantity": names, "primary": st.booleans(), "margin": st.none() | numbers,
    "where": st.dictionaries(names, names | numbers | st.booleans(), max_size=2),
}  # fmt: skip
kinds = st.one_of(
    st.builds(Trend, axis=names, **common),
    st.builds(Contrast, axis=names, high=names | numbers, low=names | numbers, **common),
    st.builds(Curve, axis=names, threshold=st.none() | numbers, **common),
    st.builds(Association, other=names, items=names, **common), st.builds(Decay, outcome=names, **common),
    st.builds(Frontier, other=names, axis=names, **common),
)  # fmt: skip


@given(st.lists(quantities, max_size=3), st.lists(kinds, max_size=4), st.lists(st.integers(0, 30), max_size=3))
def test_a_declaration_survives_json(measured, asked, looks):
    made = declaration(*asked, quantities=tuple(measured), looks=tuple(looks), pilot_seeds=tuple(looks))
    again = schema.Declaration.from_json(made.to_json())
    assert again == made
    assert again.digest == made.digest


def test_the_digest_is_of_what_is_asked_and_not_of_how_many_seeds_answer():
    made = declaration(GAMMA)
    more = replace(made, preset="q", axes=(schema.Axis(name="seed", label="seed", values=tuple(range(12))),))
    assert more.digest == made.digest != declaration(GAMMA, looks=(5, 8)).digest
    assert declaration(replace(GAMMA, margin=0.1, reason="r")).digest != made.digest


def test_an_unknown_kind_is_refused():
    data = json.loads(declaration(GAMMA).to_json())
    data["questions"][0]["kind"] = "guess"
    with pytest.raises(ValueError, match="unknown kind 'guess': expected one of trend, contrast"):
        schema.Declaration.from_json(json.dumps(data))


def test_axes_have_the_role_of_their_name_and_scale_unless_given():
    seed, size, way = (schema.Axis(name=n, label=n, values=(1, 2), scale=s)
                       for n, s in (("seed", "category"), ("parameters", "log"), ("way", "category")))  # fmt: skip
    assert [axis.role for axis in (seed, size, way)] == ["replicate", "dose", "treatment"]
    assert schema.Axis(name="seed", label="", values=(), role="treatment").role == "treatment"


def test_good_questions_have_no_problems():
    asked = (GAMMA, WAYS, replace(WAYS, name="roles", axis="role", high="treatment", low="absent"),
             Decay(name="decay", label="d", outcome="skill"))  # fmt: skip
    assert check(declaration(*asked), TRIALS) == []


def test_arms_of_the_same_stages_are_refused():
    """Seen: a misspelt value that no stage uses ended in "equivalent, 0 [0, 0]"."""
    by_seed = {seed: {"branch": Stage()} for seed in range(5)}
    same = [replace(trial, stages=by_seed[trial.parameters["seed"]]) for trial in TRIALS]
    roles = replace(WAYS, name="roles", axis="role", high="treatment", low="absent")
    assert check(declaration(WAYS), same) == [
        "the question 'ways': trials with way = 'b' and 'a' are of the same stages: "
        "no field of a stage differs between them"
    ]
    assert "trials with role = 'treatment' and 'absent'" in check(declaration(roles), same)[0]
    assert check(declaration(GAMMA), same) == []


def test_items_of_a_derived_reading_may_be_asked_about():
    loss = replace(BITS, name="loss", derived="prompt_loss")
    asked = Curve(name="c", label="c", quantity="loss", axis="k", where={"kind": "say", "way": "a"})
    made = declaration(asked, quantities=(loss,))
    assert check(made, [replace(trial, stages={"prompts-at-the-drop": Stage()}) for trial in TRIALS]) == []
    assert schema.Declaration.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    ("asked", "changes", "said"),
    [
        (replace(WAYS, where={"way": "a"}), {}, "the axis 'way' has 1 value (a): expected at least 2"),
        (replace(WAYS, margin=-0.1, reason="r"), {}, "margin -0.1: expected a number above 0"),
        (replace(WAYS, margin=0.1), {}, "a margin without a reason"),
        (replace(WAYS, prediction="up"), {}, "prediction 'up': expected one of positive, negative, equivalent"),
        (replace(WAYS, prediction="equivalent"), {}, "it predicts equivalence without a margin"),
        (replace(WAYS, quantity="k"), {}, "no quantity 'k' is declared: expected one of half_life, kept"),
        (replace(WAYS, axis="wy"), {}, "no trial has 'wy': expected one of parameters, seed, way"),
        (replace(WAYS, high="c"), {}, "no trial has way = 'c': expected one of a, b"),
        (replace(WAYS, axis="role", high="treatment", low="null"), {}, "no trial has the role 'null'"),
        (replace(WAYS, where={"size": "1k"}), {}, "where: no trial has 'size'"),
        (replace(WAYS, where={"seed": 9}), {}, "where: no trial has seed = 9"),
        (replace(GAMMA, scale="ln"), {}, "scale 'ln': expected one of log, linear"),
        (WAYS, {"quantities": (replace(KEPT, moment=Mean(scale="ln")),)}, "scale 'ln': expected one of log, linear"),
        (replace(GAMMA, axis="way"), {}, "the axis 'way' is no number ('a')"),
        (replace(GAMMA, axis="seed"), {}, "the axis 'seed' has 0, which has no logarithm"),
        (GAMMA, {"pilot_seeds": tuple(range(5))}, "every seed is a pilot seed"),
        (GAMMA, {"looks": (3, 5)}, "looks (3, 5): expected growing numbers of seeds, the first 5 or more"),
        (GAMMA, {"looks": (8, 5)}, "looks (8, 5): expected growing"),
        (WAYS, {"quantities": (replace(KEPT, measure="trunk/skill/hits"),)}, "no trial has the phase 'trunk'"),
        (WAYS, {"quantities": (replace(KEPT, measure="branch/skil/hits"),)}, "nobody measures 'skil' in 'branch'"),
        (WAYS, {"quantities": (replace(KEPT, measure="hits"),)}, "expected <phase>/<task>/<measure>"),
        (WAYS, {"quantities": (replace(KEPT, transform="ln"),)}, "transform 'ln': expected one of none, log"),
        (WAYS, {"quantities": (replace(KEPT, against=Against(role="null")),)}, "no trial has the role 'null'"),
        (WAYS, {"quantities": (replace(KEPT, derived="distance"),)}, "both a measure and a derived reading"),
        (WAYS, {"quantities": (replace(KEPT, measure=""),)}, "neither a measure nor a derived reading"),
        (WAYS, {"quantities": (replace(BITS, name="kept", derived="bit"),)}, "no reading 'bit' is known"),
        (
            WAYS, {"quantities": (replace(BITS, name="kept"),)},
            "'information' is read from a phase 'bits', which no trial has: there are branch",
        ),
        (
            WAYS, {"quantities": (replace(BITS, name="kept", derived="first_objective"),)},
            "'first_objective' is a search's: this study declares no objectives",
        ),
        (WAYS, {"quantities": (replace(BITS, name="kept", moment=At(amount=1.0)),)}, "leave out `moment`"),
        (
            WAYS, {"quantities": (replace(BITS, name="kept", against=Against(role="absent", how="retention")),)},
            "the derived reading 'information' is no curve",
        ),
        (
            Curve(name="c", label="c", quantity="bits", axis="k"), {"quantities": (BITS,)},
            "no trial has 'k': expected one of parameters, seed, way",
        ),
        (WAYS, {"quantities": (KEPT, KEPT)}, "2 quantities are named 'kept'"),
        (Decay(name="d", label="d", outcome="o"), {}, "no outcome 'o' is declared: expected one of skill"),
        (WAYS, {"quantities": (replace(KEPT, measure="branch/skil/fvu"),)}, "nobody measures 'skil' in 'branch'"),
        (replace(WAYS, name="a+b"), {}, "the name 'a+b', which MLflow does not store: give another, as 'a-b'"),
        (
            WAYS, {"quantities": (replace(KEPT, measure="objective/kept"),)},
            "no objective or constraint is named 'kept': expected one of (none)",
        ),
        (
            Frontier(name="f", label="f", quantity="kept", other="kept", axis="way", primary=True), {},
            "it has no verdict, so it cannot be primary",
        ),
    ],
)  # fmt: skip
def test_a_bad_question_is_one_line(asked, changes, said):
    problems = check(declaration(asked, **changes), TRIALS)
    assert any(said in problem for problem in problems), problems
    assert not any("\n" in problem for problem in problems)


def test_each_role_of_a_contrast_has_trials_where_it_is_asked():
    dosed = [
        replace(trial, parameters=trial.parameters | {"dose": 2 * (trial.role == "treatment")}) for trial in TRIALS
    ]
    asked = replace(WAYS, axis="role", high="treatment", low="absent", where={"dose": 2})
    assert check(declaration(asked), dosed) == [
        "the question 'ways': where: no trial of the role 'absent' has dose = 2"
    ]


def test_tasks_of_one_evaluation_and_of_every_training_stage_are_known():
    measures = ("branch/skill-layer-3/hits", "branch/skill.one/loss", "branch/train/loss", "branch/clock/steps")
    quantities = tuple(replace(KEPT, name=f"q{place}", measure=measure) for place, measure in enumerate(measures))
    assert check(declaration(quantities=quantities), TRIALS) == []


def test_names_in_a_searchs_questions_are_checked_though_its_settings_are_not_known():
    objective = schema.Objective(name="best", label="best", direction="maximize")
    quantity = replace(KEPT, measure="objective/best")
    asked = Frontier(
        name="f", label="f", quantity="kept", other="half_life", axis="suggestion", role=schema.ROLE_HELD_OUT,
        where={"way": "c"},
    )  # fmt: skip
    made = declaration(asked, quantities=(quantity, HALF_LIFE), objectives=(objective,))
    assert check(made, TRIALS, adaptive=True) == []
    wrong = declaration(replace(asked, axis="suggestio"), quantities=(quantity, HALF_LIFE), objectives=(objective,))
    assert check(wrong, TRIALS, adaptive=True) == [
        "the question 'f': no trial has 'suggestio': expected one of parameters, seed, way, suggestion"
    ]


def test_a_fourth_primary_is_refused():
    asked = [replace(WAYS, name=f"q{i}", primary=True) for i in range(4)]
    assert check(declaration(*asked[:3]), TRIALS) == []
    assert check(declaration(*asked), TRIALS) == [
        "4 questions are primary (q0, q1, q2, q3): expected at most 3; ask the others without primary=True"
    ]


def test_the_readmes_questions_are_good_ones_for_its_study():
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = text[text.index("### What a study asks") :]
    names: dict[str, Any] = {}
    exec(section[section.index("```python") + len("```python") :].split("```")[0], names)
    trials = [
        Trial({"parameters": n, "seed": seed, "batch": batch}, role, {"branch": Stage(("backdoor",))})
        for n in (1000, 2000) for seed in range(5) for batch in (1024, 8192) for role in ("treatment", "absent")
    ]  # fmt: skip
    made = declaration(*names["questions"], quantities=names["quantities"], looks=(5, 8, 12))
    assert check(made, trials) == []
    one_batch = [trial for trial in trials if trial.parameters["batch"] == 1024]
    assert check(made, one_batch) == ["the question 'batch': the axis 'batch' has 1 value (1024): expected at least 2"]
