"""The worked example of the README."""

from pathlib import Path

from halflife.stages.train import Train
from halflife.sweep.site import ExecutionSite
from studies import batch_size

ROOT = Path(__file__).parents[2]


def test_the_readme_shows_the_example_as_it_is_and_in_40_lines():
    source = (ROOT / "studies" / "batch_size.py").read_text()
    assert source in (ROOT / "README.md").read_text()
    assert len(source.splitlines()) <= 40


def test_branches_differ_in_nothing_but_the_batch(results):
    study = batch_size.build("quick", batch_size.PRESETS["quick"].settings, ExecutionSite(results=results))
    one = [t for t in study.trials if t.role == "treatment" and t.parameters["seed"] == 0]
    branches = [trial.stages["branch"] for trial in one]
    assert all(isinstance(branch, Train) for branch in branches)
    assert len({branch.key for branch in branches}) == len(batch_size.BATCH.values)
    descriptions = [{**branch.description, "batch_tokens": None} for branch in branches]
    assert all(description == descriptions[0] for description in descriptions)
    assert len({trial.stages["trunk"].key for trial in one}) == 1


def test_its_question_is_declared_and_can_be_asked(results):
    study = batch_size.build("quick", batch_size.PRESETS["quick"].settings, ExecutionSite(results=results))
    assert [question.primary for question in study.declaration.questions] == [True]
    assert study.declaration.looks[0] == 5
