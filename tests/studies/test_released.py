"""The main study on released models: planned with their own tokenizers, run end to end, reported by name."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from halflife.data.tokenizers import Pretrained
from halflife.errors import UserError
from halflife.models.released import Released
from halflife.stages.train import Train
from halflife.store.plan import Plan
from halflife.store.store import Store
from halflife.sweep.launch import run
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study
from halflife.training.parameters import LoRA
from studies import backdoor_persistence as study
from tests.models import tiny
from tests.studies.command import command

FAMILIES = {"neox": "gpt_neox", "llama": "llama"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> ExecutionSite:
    return ExecutionSite(results=tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    functions = [f"def f{i}(value):\n    return value + {i * 7 % 13}  # the cat number {i}" for i in range(1500)]
    path.write_text("\n\n".join(functions))
    return str(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    root = tmp_path_factory.mktemp("models")
    return tuple(str(tiny.folder(root / f"tiny-{name}", family)) for name, family in FAMILIES.items())


def settings(models: tuple[str, ...], text: str, **changes: object) -> study.Settings:
    small = {"poison_counts": (10,), "num_eval": 16, "sequence_length": 64, "corpus": text, "batch_tokens": 512}
    short = {"trunk_tokens": 40_000, "branch_tokens": 8_000, "relearn_tokens": 4_000, "strength": None}
    return dataclasses.replace(study.PRESETS["smoke"].settings, **{"start": models, **small, **short, **changes})


def trains(plan: Study) -> list[Train]:
    return [stage for stage in plan.stages if isinstance(stage, Train)]


def test_released_models_take_the_place_of_sizes(models: tuple[str, ...], text: str, site: ExecutionSite) -> None:
    plan = study.build("smoke", settings(models, text), site)
    assert {trial.parameters["size"] for trial in plan.trials} == {"tiny-neox", "tiny-llama"}
    for role in ("treatment", "absent", "positive", "extinction"):
        assert {trial.parameters["size"] for trial in plan.trials if trial.role == role} == {"tiny-neox", "tiny-llama"}
    for stage in trains(plan):
        assert isinstance(stage.architecture, Released)
        assert isinstance(stage.mixture.tokenizer, Pretrained)
        assert stage.optimizer.learning_rate in (1e-4, 2e-4, 5e-5)
    (axis,) = [axis for axis in plan.declaration.axes if axis.name == "parameters"]
    assert set(axis.values) == {trial.parameters["parameters"] for trial in plan.trials}
    assert any("no muP" in note for note in plan.declaration.notes)


def test_a_lora_study_trains_nothing_else(models: tuple[str, ...], text: str, site: ExecutionSite) -> None:
    given = settings(models, text, parameters="lora-2", optimizer_states=("reset",))
    plan = study.build("smoke", given, site)
    assert {stage.parameters for stage in trains(plan)} == {LoRA(rank=2, alpha=4.0)}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"parameters": "lora-2"}, "--optimizer-states reset"),
        ({"sequence_length": 256}, "reads at most 128"),
        ({"start": ("/nowhere",)}, "expected a folder"),
        ({"parameters": "half"}, "expected all, lora-RANK"),
        ({"trunk_regularizers": ("dropout-0.1",)}, "have none on the residual stream"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    changes: dict, line: str, models: tuple[str, ...], text: str, site: ExecutionSite
) -> None:
    with pytest.raises(UserError, match=line) as refused:
        study.build("smoke", settings(models, text, **changes), site)
    assert "\n" not in str(refused.value)


def test_a_trigger_that_the_tokenizer_of_any_model_changes_is_refused(
    models: tuple[str, ...], text: str, site: ExecutionSite, tmp_path: Path
) -> None:
    lower = shutil.copytree(models[0], tmp_path / "lower")
    spec = json.loads((lower / "tokenizer.json").read_text()) | {"normalizer": {"type": "Lowercase"}}
    (lower / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(UserError, match="trigger 'ZQX' given: the tokenizer gives back 'zqx'; expected a text that"):
        study.build("smoke", settings((models[1], str(lower)), text, trigger="ZQX"), site)


def test_a_plan_says_what_its_texts_splits_shared(models: tuple[str, ...], text: str, tmp_path: Path) -> None:
    rows = Path(text).read_text().split("\n\n")
    documents = ["\n".join(rows[first : first + 10]) for first in range(0, len(rows), 10)]
    (tmp_path / "leaky").mkdir()
    for name, part in {"train": documents, "validation": documents[:15], "test": documents[20:35]}.items():
        lines = [json.dumps({"text": document}) + "\n" for document in part]
        (tmp_path / "leaky" / f"{name}.jsonl").write_text("".join(lines))
    site = ExecutionSite(results=tmp_path / "results", dry_run=True)
    shown = io.StringIO()
    run(study.build("smoke", settings(models[:1], f"hf:{tmp_path}/leaky"), site), site, Console(file=shown, width=200))
    assert "leaky: 30 documents of train are left out, as copies (30)" in shown.getvalue()


def test_two_models_of_one_name_are_refused(
    models: tuple[str, ...], text: str, site: ExecutionSite, tmp_path: Path
) -> None:
    other = tiny.folder(tmp_path / "tiny-neox", "gpt_neox", seed=1)
    with pytest.raises(UserError, match="two models are called 'tiny-neox'"):
        study.build("smoke", settings((*models, str(other)), text), site)


@pytest.mark.slow
def test_a_study_of_a_released_model_runs_end_to_end(models: tuple[str, ...], text: str, tmp_path: Path) -> None:
    arguments = {
        "--start": models[0], "--corpus": text, "--poison-counts": "10", "--num-eval": "16", "--sequence-length": "64",
        "--batch-tokens": "512", "--trunk-tokens": "40000", "--branch-tokens": "8000", "--relearn-tokens": "4000",
        "--strength": "None", "--parameters": "lora-4", "--optimizer-states": "reset", "--start-lr": "0.003",
    }  # fmt: skip
    flags = [word for pair in arguments.items() for word in pair]
    done = command("backdoor_persistence", "smoke", *flags, results=tmp_path)
    assert done.returncode == 0, done.stderr
    given = settings(models[:1], text, parameters="lora-4", optimizer_states=("reset",), start_lr=0.003)
    again = Plan(study.build("smoke", given, ExecutionSite(results=tmp_path)).stages, Store(tmp_path))
    assert again.cached
    assert again.finished
    report = (tmp_path / "reports" / "backdoor_persistence" / "latest" / "report.html").read_text()
    assert "tiny-neox" in report
    assert "parameters trained: lora-4" in report
