"""The study of dictionaries that all blocks share: what it plans, asks and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halflife.errors import UserError
from halflife.interpret.dictionary_companion import DictionaryCompanion
from halflife.interpret.fit_dictionary import FitDictionary
from halflife.interpret.low_rank import LowRank
from halflife.stages.train import Train
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study
from studies import shared_dictionaries as study

SMOKE = study.PRESETS["smoke"].settings
EVERY = replace(
    SMOKE, arms=("shared", "per-block", "random", "dense", "low-rank", "longer"), strengths=(0.1, 1.0),
    lengths=(1.0, 2.0), written=True, sizes=("30k", "60k"),
)  # fmt: skip


def built(settings: study.Settings, results: Path) -> Study:
    return study.build("smoke", settings, ExecutionSite(results=results))


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return built(EVERY, tmp_path_factory.mktemp("results"))


def trunk(plan: Study, role: str = "treatment", **values: Any) -> Train:
    wanted = {"size": "30k", "arm": "shared", "strength": 0.1, "length": 1.0} | values
    (found,) = (t for t in plan.trials if t.role == role and wanted.items() <= t.parameters.items())
    stage = found.stages["trunk"]
    assert isinstance(stage, Train)
    return stage


def test_arms_are_a_star_that_differs_in_what_is_beside_the_model(every: Study) -> None:
    plain, shared = trunk(every, "absent"), trunk(every)
    assert plain.companions == ()
    assert replace(shared, companions=()) == plain
    (detached,) = trunk(every, "null").companions
    assert detached == replace(shared.companions[0], strength=0.0)
    beside = {arm: trunk(every, arm=arm).companions for arm in ("shared", "per-block", "random", "dense")}
    kinds = {arm: each[0] for arm, each in beside.items() if isinstance(each[0], DictionaryCompanion)}
    assert [arm for arm, each in kinds.items() if not each.dictionary.shared] == ["per-block"]
    assert [arm for arm, each in kinds.items() if each.frozen] == ["random"]
    assert kinds["dense"].dictionary.sparsity.k == plain.architecture.width
    pressed = trunk(every, arm="low-rank")
    assert [type(each) for each in pressed.objectives][1:] == [LowRank]
    assert pressed.companions == ()
    longer = trunk(every, arm="longer")
    assert longer.companions == ()
    flops = [replace(each, evaluations=()).cost.flops for each in (longer, shared)]
    assert flops[0] == pytest.approx(flops[1], rel=0.03)  # in whole steps
    assert trunk(every, "absent", length=2.0).tokens == 2 * plain.tokens == trunk(every, length=2.0).tokens


def test_every_model_but_the_detached_gets_the_same_fresh_dictionaries(every: Study) -> None:
    fits = [trial.stages.get("dictionaries") for trial in every.trials if trial.parameters["size"] == "30k"]
    found = [fit for fit in fits if isinstance(fit, FitDictionary)]
    assert len({fit.dictionaries for fit in found}) == 1
    assert len(found) == len(fits) - 1
    turned = [trial.role for trial in every.trials if getattr(trial.stages.get("dictionaries"), "turned", False)]
    assert set(turned) == {"positive"}
    written = [trial.stages.get("written-dictionaries") for trial in every.trials if trial.role == "treatment"]
    assert all(isinstance(fit, FitDictionary) and fit.read_sites[0].part == "mlp" for fit in written)


def test_its_questions_follow_from_its_settings(every: Study, tmp_path: Path) -> None:
    asked = {question.name: question for question in every.declaration.questions}
    assert [name for name, question in asked.items() if question.primary] == ["cost", "features", "decodable"]
    assert all(question.margin and question.reason for question in asked.values() if question.primary)
    assert {"cost_by_size", "cost_by_strength", "cost_by_length", "plateau", "persistence_written"} <= asked.keys()
    few = {question.name for question in built(SMOKE, tmp_path).declaration.questions}
    assert not {"cost_by_size", "cost_by_strength", "plateau", "persistence_written"} & few


@pytest.mark.parametrize("preset", study.PRESETS)
def test_every_preset_can_be_planned(preset: str, tmp_path: Path) -> None:
    settings = study.PRESETS[preset].settings
    settings = replace(settings, seeds=1, sizes=settings.sizes[:1])
    assert built(settings, tmp_path).declaration.figures == ("specificity", "feature_blocks")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"blocks": 1}, "--blocks 1: expected at least 2"),
        ({"widths": (64,)}, "--widths 64: expected at least 2"),
        ({"widths": (32, 32)}, "--widths 32 32: expected at least one value, each once"),
        ({"followed": 48}, "--followed 48: expected one of --widths 8 16 32"),
        ({"k": 9}, "--k 9: expected at most 8, the latents of the smallest dictionary"),
        ({"arms": ("random", "shared")}, "--arms random shared: expected shared as the first"),
        ({"strengths": (0.0,)}, "--strengths 0.0: expected a positive number"),
        ({"texts": 3}, "--texts 3 of --symbols 32: expected at least 20 texts"),
        ({"sizes": ("30k",), "blocks": 99}, "99 layers of 30k given"),
        (
            {"arms": ("shared", "low-rank"), "k": 32, "widths": (32, 64), "followed": 32},
            "rank 32 given: 30k is 32 wide; expected less",
        ),
    ],
)
def test_settings_that_cannot_be_run_are_refused_in_one_line(
    changes: dict[str, Any], line: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=line) as error:
        built(replace(SMOKE, **changes), tmp_path)
    assert "\n" not in str(error.value)
