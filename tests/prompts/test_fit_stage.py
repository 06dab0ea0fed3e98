from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from halflife.__main__ import main
from halflife.data.corpus import Corpus
from halflife.data.mixture import Mixture, Source
from halflife.data.tokenizers import Bytes
from halflife.errors import UserError
from halflife.evaluation.behaviours import BehaviourTarget
from halflife.evaluation.probes import Every
from halflife.evaluation.targets import TaskTarget
from halflife.models.ladder import Rung
from halflife.prompts import results as prompt_results
from halflife.prompts.edit import PromptBefore
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.prompts.soft_prompt import Linear, Noise, SoftPrompt, Text, WarmStart, Words, initial
from halflife.stages.say import say
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.store.attempt import Attempt
from halflife.store.run import run_stage
from halflife.store.store import Store
from halflife.tasks.arithmetic import Addition
from halflife.tasks.base import Example
from halflife.tasks.boards import Pathfinding
from halflife.training.optimizers import AdamW

ADDITION = TaskTarget(task=Addition(form="words"))
STAGE = FitSoftPrompts(
    subject=Subject(model=Rung(size="20k"), tokenizer=Bytes()),
    targets=(ADDITION,),
    prompts=(SoftPrompt(tokens=0), SoftPrompt(tokens=2), SoftPrompt(tokens=2, restart=1)),
    examples=16,
    num_eval=8,
    steps=4,
)
TRUNK = Train(
    start=Rung(size="20k"),
    mixture=Mixture(sources=(Source(corpus=Corpus(digest="none")),), sequence=64),
    tokens=64,
    batch_tokens=64,
    optimizer=AdamW(learning_rate=0.01),
)


@dataclass(frozen=True, kw_only=True)
class Prefixed:
    """The same examples with "sum: " in front."""

    name: str = "prefixed"
    characters: int = 40

    def examples(self, part: Any, count: int, results: Path) -> list[Example]:
        found = ADDITION.examples(part, count, results)
        return [Example(prompt="sum: " + each.prompt, answer=each.answer) for each in found]


def compute(stage: FitSoftPrompts, results: Path) -> tuple[dict[str, Any], Path]:
    store = Store(results)
    summary = run_stage(stage, store).summary
    folder = store.verified(stage)
    assert folder is not None
    return summary, folder


def test_a_stage_leaves_losses_of_items_prompts_and_points(tmp_path: Path) -> None:
    stage = replace(STAGE, at=Every(steps=2))
    summary, folder = compute(stage, tmp_path)
    names = [stage.run_name(ADDITION, prompt) for prompt in stage.prompts]
    assert list(summary["runs"]) == names
    items = pl.read_parquet(folder / "final" / "items.parquet")
    for name in names:
        of_run = items.filter(pl.col("run") == name)
        assert len(of_run) == summary["runs"][name]["trials"] == 8
        assert summary["runs"][name]["loss"] == pytest.approx(float(of_run["loss"].sum()) / int(of_run["tokens"].sum()))
    points = Store(tmp_path).points(stage)
    assert points.filter(pl.col("name") == f"{names[1]}/loss")["step"].n_unique() == 3
    fitted = prompt_results.read(folder / "final")
    assert fitted[names[1]].vectors().shape == (2, STAGE.subject.architecture.width)
    assert fitted[names[0]].vectors().shape == (0, STAGE.subject.architecture.width)


def test_restarts_differ_and_the_same_stage_is_the_same(tmp_path: Path) -> None:
    first, _ = compute(STAGE, tmp_path / "a")
    again, _ = compute(STAGE, tmp_path / "b")
    losses = [run["loss"] for run in first["runs"].values()]
    assert losses == [run["loss"] for run in again["runs"].values()]
    assert len(set(losses)) == 3


def test_a_larger_prompt_is_warm_started_from_a_smaller_one(tmp_path: Path) -> None:
    summary, _ = compute(STAGE, tmp_path)
    name = STAGE.prompts[1].name
    same = SoftPrompt(tokens=2, initial=WarmStart(stage=STAGE, prompts=(name,)))
    more = SoftPrompt(tokens=3, initial=WarmStart(stage=STAGE, prompts=(name,), rest=Noise()))
    warm = replace(STAGE, prompts=(same, more), steps=0)
    found, folder = compute(warm, tmp_path)
    assert found["runs"][warm.run_name(ADDITION, same)]["loss"] == pytest.approx(
        summary["runs"][STAGE.run_name(ADDITION, STAGE.prompts[1])]["loss"], abs=1e-6
    )
    vectors = {run: fitted.vectors() for run, fitted in prompt_results.read(folder / "final").items()}
    assert (vectors[warm.run_name(ADDITION, more)][:2] == vectors[warm.run_name(ADDITION, same)]).all()


def test_a_warm_start_uses_the_prompt_with_the_lowest_training_loss(tmp_path: Path) -> None:
    summary, _ = compute(STAGE, tmp_path)
    names = tuple(prompt.name for prompt in STAGE.prompts[1:])
    losses = {name: summary["runs"][f"{ADDITION.name}.{name}"] for name in names}
    best = min(losses.values(), key=lambda run: run["train_loss"])
    for order in (names, names[::-1]):
        warm = SoftPrompt(tokens=2, initial=WarmStart(stage=STAGE, prompts=order))
        found, _ = compute(replace(STAGE, prompts=(warm,), steps=0), tmp_path)
        (run,) = found["runs"].values()
        assert run["loss"] == pytest.approx(best["loss"], abs=1e-6)


def test_texts_without_an_initial_word_are_refused_before_any_compute(tmp_path: Path) -> None:
    wordless = replace(STAGE, prompts=(SoftPrompt(tokens=2, initial=Words(letters=50)),))
    with pytest.raises(UserError, match="its texts have none of 50 letters"):
        wordless.check(tmp_path)


def test_a_hard_prompt_is_a_text_put_before_the_text(tmp_path: Path) -> None:
    text = "sum: "
    hard = SoftPrompt(tokens=len(text), initial=Text(text=text))
    summary, _ = compute(replace(STAGE, prompts=(hard,), steps=0), tmp_path)
    prefixed = replace(STAGE, prompts=(SoftPrompt(tokens=0),), targets=(Prefixed(),))
    baseline, _ = compute(prefixed, tmp_path)
    (found,), (expected,) = summary["runs"].values(), baseline["runs"].values()
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert found["hits"] == expected["hits"]


def test_an_interrupted_stage_resumes_to_the_same_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = replace(STAGE, steps=30, prompts=(*STAGE.prompts, SoftPrompt(tokens=1, position="answer")))
    uninterrupted, _ = compute(stage, tmp_path / "a")
    store = Store(tmp_path / "b")
    checkpointed, count = Attempt.checkpointed, itertools.count()

    def interrupted(attempt: Attempt, step: int, folder: Path) -> None:
        checkpointed(attempt, step, folder)
        if next(count) == 40:  # inside the second of the groups that are trained
            raise KeyboardInterrupt

    monkeypatch.setattr(Attempt, "checkpointed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, store, checkpoint_seconds=0.0, origin={})
    resumed = run_stage(stage, store).summary
    assert resumed["runs"] == uninterrupted["runs"]
    record = json.loads(next((store.verified(stage) or tmp_path).glob("stage.json")).read_text())
    assert record["resumed"]["step"] > 0
    assert store.points(stage).equals(Store(tmp_path / "a").points(stage))


def test_completions_are_judged_by_the_task_and_chance_is_recorded(tmp_path: Path) -> None:
    paths = BehaviourTarget(behaviour=Pathfinding(side=3))
    prompts = (SoftPrompt(tokens=0), SoftPrompt(tokens=2, model=Linear()))
    stage = replace(STAGE, targets=(paths,), prompts=prompts, judged=True)
    summary, folder = compute(stage, tmp_path)
    points = Store(tmp_path).points(stage).sort("step").group_by("name").agg(pl.col("value").last())
    values = dict(points.iter_rows())
    for prompt in prompts:
        run = stage.run_name(paths, prompt)
        counts = summary["runs"][run]["generated"]
        assert counts["trials"] == stage.num_eval
        assert counts["legal_moves"] + counts["wall_hits"] == counts["moves"]
        assert counts == {name: values[f"{run}/generated_{name}"] for name in counts}
        assert values[f"{run}/chance"] == Pathfinding(side=3).chance
        assert prompt_results.read(folder / "final")[run].generated == counts
    plain, _ = compute(replace(stage, judged=False), tmp_path)
    assert all("generated" not in run for run in plain["runs"].values())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: SoftPrompt(tokens=-1), "a soft prompt of -1 tokens"),
        (lambda: SoftPrompt(tokens=1, position="end"), "soft prompt at 'end'"),  # pyright: ignore[reportArgumentType]
        (lambda: initial("zeros"), "unknown initialization 'zeros'"),
        (lambda: SoftPrompt(tokens=1, initial="noise"), "initialized from 'noise'"),  # pyright: ignore[reportArgumentType]
        (lambda: SoftPrompt(tokens=1, model="tree"), "input model 'tree' given"),  # pyright: ignore[reportArgumentType]
        (
            lambda: replace(STAGE, subject=Subject(model=Checkpoint(stage=TRUNK)), prompts=(SoftPrompt(tokens=64),)),
            "reads at most 64",
        ),
        (lambda: Subject(model=Rung(size="20k")), "without a tokenizer"),
        (lambda: replace(STAGE, prompts=STAGE.prompts[:1] * 2), "several prompts named"),
        (lambda: replace(STAGE, steps=-1), "steps = -1"),
        (
            lambda: replace(
                STAGE, prompts=(SoftPrompt(tokens=1, initial=WarmStart(stage=STAGE, prompts=(STAGE.prompts[1].name,))),)
            ),
            "expected 1 to as many",
        ),
        (lambda: SoftPrompt(tokens=1, initial=Words(letters=0)), "words of 0 letters"),
        (lambda: replace(STAGE, judged=True), "judged completions of words: it has one right answer"),
    ],
)
def test_contradictory_fields_are_refused_in_one_line(wrong: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        wrong()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples": 500}, "500 training examples of words given: it has"),
        ({"prompts": (SoftPrompt(tokens=1, position=90),)}, "the shortest text has"),
        ({"prompts": (SoftPrompt(tokens=1, initial=Words(letters=30)),)}, "none of 30 letters"),
    ],
)
def test_invalid_texts_are_refused_before_any_step(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as refused:
        run_stage(replace(STAGE, **changes), Store(tmp_path))
    assert "\n" not in str(refused.value)


def test_what_a_subject_says_after_a_fitted_prompt_is_what_the_model_behind_its_vectors_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    compute(STAGE, tmp_path)
    run = STAGE.run_name(ADDITION, STAGE.prompts[1])
    subject = replace(STAGE.subject, edits=(PromptBefore(fit=STAGE, run=run),))
    capsys.readouterr()
    asked = ["say", STAGE.key, "two", "--tokens", "6", "--results", str(tmp_path)]
    assert main([*asked, "--prompt", run]) == 0
    assert json.loads(capsys.readouterr().out) == say(subject, store, "two", tokens=6)
    assert main([*asked, "--prompt", "none"]) == 2
    assert "expected one of" in capsys.readouterr().err
