"""A user's task in a family and among behaviours: where it stands, its controls, and the example of the guide."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from analysis.figures import FIGURES
from halflife.data.own_tasks import prepare_task
from halflife.data.tokenizers import Pretrained
from halflife.errors import UserError
from halflife.evaluation.targets import TaskTarget
from halflife.kits.behaviours import TASK
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.stages.train import Checkpoint, Train
from halflife.store.plan import Plan
from halflife.store.run import run_stage
from halflife.store.store import Store
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study
from halflife.tasks.stored import Stored
from studies import capability_decay, soft_prompt_information
from tests.data.samples import sample_corpus
from tests.models import tiny

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "mytask.py"
OWN = f"{EXAMPLE}:successor"
SHORT: dict[str, Any] = {
    "seeds": 1, "trunk_tokens": 4096, "branch_tokens": 2048, "relearn_tokens": 1024, "num_eval": 8,
}  # fmt: skip


def built(study: Any, results: Path, **changes: Any) -> Study:
    settings = dataclasses.replace(study.PRESETS["smoke"].settings, **changes)
    return study.build("smoke", settings, ExecutionSite(results=results))


def tasks_of(stage: Any) -> list[str]:
    assert isinstance(stage, Train)
    return [source.corpus.called for source in stage.mixture.sources if isinstance(source.corpus, Stored)]


def test_the_task_takes_the_place_of_the_dropped_language_and_its_controls_never_saw_it_or_keep_it(
    results: Path,
) -> None:
    plan = built(capability_decay, results, task=OWN, **SHORT)
    phases = {}
    for trial in plan.trials:
        if trial.parameters["arm"] == "equal-exposure":
            phases[trial.role] = [tasks_of(trial.stages[phase]) for phase in ("trunk", "branch")]
    own = ["successor"]
    assert phases == {"treatment": [own, []], "absent": [[], []], "positive": [own, own], "null": [own, []]}
    (treated,) = [trial for trial in plan.trials if trial.role == "treatment"][:1]
    relearned = treated.stages["relearn-all"]
    assert tasks_of(relearned) == own
    (null,) = [trial for trial in plan.trials if trial.role == "null"]
    assert null.stages["trunk"].mixture.sources[0].corpus.shuffled  # type: ignore[attr-defined]
    labels = " ".join(question.label for question in plan.declaration.questions)
    assert "How long does the task last?" in labels
    assert "family" not in labels
    assert "language" not in labels
    words = {"skill": plan.declaration.outcomes[0].skill, "answer": "answer", "success": "success"}
    shown = [FIGURES[name] for name in plan.declaration.figures]
    texts = [text.format(**words) for each in shown for text in (each.title, each.caption, each.nothing)]
    assert [text for text in (*texts, plan.declaration.reading, *plan.declaration.notes) if "language" in text] == []
    assert [axis.label for axis in plan.declaration.axes if "language" in axis.label] == []
    assert any("542 items to learn, 134 held out" not in note for note in plan.declaration.notes)


def test_an_edited_task_is_another_stage_and_an_edited_comment_is_not(tmp_path: Path) -> None:
    keys = []
    for text in ("", "# a comment\n", "def successor():\n    return [(f'{n}>', str(n)) for n in range(40)]\n"):
        (tmp_path / "mytask.py").write_text(EXAMPLE.read_text() + text)
        plan = built(capability_decay, tmp_path, task=f"{tmp_path / 'mytask.py'}:successor", **SHORT)
        keys.append(plan.trials[0].stages["trunk"].key)
    assert keys[0] == keys[1] != keys[2]


def test_the_example_of_the_guide_is_learned_dropped_and_relearned_by_the_stages_of_its_study(tmp_path: Path) -> None:
    plan = built(capability_decay, tmp_path, task=OWN, **{**SHORT, "relearn_examples": (8,)})
    store = Store(tmp_path)
    store.prepare()
    (treated,) = [trial for trial in plan.trials if trial.role == "treatment"][:1]
    for phase in ("trunk", "branch", "relearn-8", "relearn-all"):
        stage = treated.stages[phase]
        assert run_stage(stage, store).status == "complete"
    points = store.points(treated.stages["branch"])
    assert {"dropped/hits", "dropped/trials", "dropped/logprob", "shots/hits", "choice/hits"} <= set(points["name"])
    assert Plan(list(treated.stages.values()), store).finished


def test_tasks_of_the_example_have_splits_and_chances_of_their_own(tmp_path: Path) -> None:
    parity = prepare_task(f"{EXAMPLE}:parity", tmp_path)
    assert {len(each.prompt) for each in parity.examples("held-out")} == {7}
    capitals = prepare_task(f"{EXAMPLE}:Capitals", tmp_path, held_out=0)
    assert (capitals.chance, len(capitals.examples("skill"))) == (0.0, 2)
    with pytest.raises(UserError, match="--held-out 0 for facts"):
        prepare_task(f"{write_facts(tmp_path)}", tmp_path, held_out=0.2)


def write_facts(folder: Path) -> Path:
    (folder / "facts.jsonl").write_text(json.dumps({"prompt": "a", "answer": "b", "split": "train"}))
    return folder / "facts.jsonl"


def test_prompts_are_fitted_to_what_is_left_of_a_dropped_task_and_to_a_model_that_never_learned_it(
    results: Path,
) -> None:
    sample_corpus(results, documents=200, seed=0)
    text = str(results / "sample-0.jsonl")
    plan = built(
        soft_prompt_information, results, task=OWN, corpus=text, fine_tuning_corpus=text, trunk_tokens=8192,
        fine_tuning_tokens=4096,
    )  # fmt: skip
    of = {trial.role: trial for trial in plan.trials if trial.parameters["behaviour"] == TASK}
    assert tasks_of(of["treatment"].stages["trunk"]) == ["successor"]
    assert tasks_of(of["treatment"].stages["fine-tuning"]) == tasks_of(of["absent"].stages["trunk"]) == []
    for role, phase in (("treatment", "fine-tuning"), ("absent", "fine-tuning"), ("positive", "trunk")):
        fit = of[role].stages["prompts"]
        assert isinstance(fit, FitSoftPrompts)
        assert fit.subject.model == Checkpoint(stage=of[role].stages[phase])  # type: ignore[arg-type]
        (target,) = fit.targets
        assert isinstance(target, TaskTarget)
        assert target.evaluate_on == "held-out"


def test_a_released_model_learns_a_task_of_text_next_to_text_and_is_asked_as_it_is(tmp_path: Path) -> None:
    sample_corpus(tmp_path, documents=200, seed=0)
    model = str(tiny.folder(tmp_path / "tiny", "llama"))
    given: dict[str, Any] = {"task": OWN, "start": (model,), "corpus": str(tmp_path / "sample-0.jsonl")}
    plan = built(capability_decay, tmp_path, **given, **SHORT)
    for trial in plan.trials:
        trunk = trial.stages["trunk"]
        assert isinstance(trunk, Train)
        assert isinstance(trunk.mixture.tokenizer, Pretrained)
        assert len(trunk.mixture.sources) == (1 if trial.role == "absent" else 2)
        assert trunk.optimizer.learning_rate == 3e-4
    asked = built(soft_prompt_information, tmp_path, **given, fine_tuning_corpus=given["corpus"])
    (treated,) = [
        trial for trial in asked.trials if trial.role == "treatment" and trial.parameters["behaviour"] == TASK
    ]
    assert next(iter(treated.stages)) == "prompts"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": ("nowhere",)}, "expected --task too|nowhere"),
        ({"task": f"{EXAMPLE}:succesor"}, "did you mean successor"),
        (
            {"task": OWN, "sequence_length": 6},
            r"takes 5 tokens with its answer, and as many .* give --sequence-length 9",
        ),
        ({"task": OWN, "rule_overlap": (1.0, 0.5)}, "it shares nothing; use family A|varies in family B"),
        ({"task": OWN, "criterion": 0.01}, "expected more than chance, which is 0.04 in the task"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(results: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        built(capability_decay, results, **changes)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="without --task"):
        built(soft_prompt_information, results, behaviours=("task",))
