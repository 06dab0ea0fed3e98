"""Soft prompts on released models, and their export to peft."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from halflife.__main__ import main
from halflife.data.codecs import load as load_tokenizer
from halflife.data.pretrained import prepare_tokenizer
from halflife.errors import UserError
from halflife.evaluation.targets import TaskTarget
from halflife.models.prepare import prepare_model
from halflife.prompts import results as prompt_results
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.prompts.soft_prompt import Linear, SoftPrompt, Text
from halflife.stages.subject import Subject
from halflife.store.run import run_stage
from halflife.store.store import Store
from halflife.tasks.arithmetic import Addition
from tests.models import tiny

pytest.importorskip("transformers")
TARGET = TaskTarget(task=Addition(form="digits"))
PROMPT = SoftPrompt(tokens=3, learning_rate=0.3)
INSIDE = SoftPrompt(tokens=2, position="answer", model=Linear(), learning_rate=0.3)


@pytest.fixture(scope="module", params=["gpt_neox", "llama"])
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FitSoftPrompts:
    results = tmp_path_factory.mktemp("results")
    folder = tiny.folder(results / "model", request.param)
    return FitSoftPrompts(
        subject=Subject(model=prepare_model(str(folder), results), tokenizer=prepare_tokenizer(folder, results)),
        targets=(TARGET,),
        prompts=(SoftPrompt(tokens=0), PROMPT, INSIDE),
        examples=16,
        num_eval=6,
        steps=20,
    )


def results_of(stage: FitSoftPrompts) -> Path:
    return Path(stage.subject.model.folder).parent  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]


def run(stage: FitSoftPrompts) -> tuple[dict[str, Any], dict[str, prompt_results.Fitted]]:
    store = Store(results_of(stage))
    summary = run_stage(stage, store).summary
    folder = store.verified(stage)
    assert folder is not None
    return summary["runs"], prompt_results.read(folder / "final")


def test_a_prompt_lowers_the_loss_of_a_released_model(stage: FitSoftPrompts) -> None:
    runs, _ = run(stage)
    none, *others = [runs[stage.run_name(TARGET, prompt)]["loss"] for prompt in stage.prompts]
    assert all(loss < none - 0.05 for loss in others)


def test_losses_in_bf16_are_near_those_in_fp32(stage: FitSoftPrompts) -> None:
    exact, _ = run(stage)
    rounded, _ = run(replace(stage, precision="bf16"))
    for name, found in rounded.items():
        assert found["loss"] == pytest.approx(exact[name]["loss"], abs=0.05)
    assert rounded != exact


def test_peft_reads_an_export_with_equal_logits(stage: FitSoftPrompts, tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    _, fitted = run(stage)
    name, results = stage.run_name(TARGET, PROMPT), results_of(stage)
    assert main(["export-prompt", stage.key, name, "--out", str(tmp_path / "out"), "--results", str(results)]) == 0
    base = transformers.AutoModelForCausalLM.from_pretrained(results / "model").eval()
    theirs = peft.PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    codec = load_tokenizer(stage.subject.codec, results)
    for item in stage.targets[0].examples("held-out", 4, results):  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        tokens = torch.from_numpy(codec.encode(item.prompt))[None]
        with torch.no_grad():
            expected = theirs(input_ids=tokens).logits[0, -tokens.shape[1] :]
            rows = torch.cat([fitted[name].vectors()[None], base.get_input_embeddings()(tokens)], dim=1)
            found = base(inputs_embeds=rows).logits[0, 3:]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("run_name", "message"),
    [
        (f"digits.{INSIDE.name}", "at the start and the same for every text"),
        (f"digits.{SoftPrompt(tokens=0).name}", "at the start and the same for every text"),
        ("digits.k9", "expected one of"),
    ],
)
def test_prompts_that_peft_cannot_represent_are_refused(
    stage: FitSoftPrompts, run_name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft")
    run(stage)
    out, results = tmp_path / "out", results_of(stage)
    assert main(["export-prompt", stage.key, run_name, "--out", str(out), "--results", str(results)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_prompt_beyond_the_models_context_is_refused(stage: FitSoftPrompts) -> None:
    with pytest.raises(UserError, match="reads at most 128"):
        replace(stage, prompts=(SoftPrompt(tokens=128),))
    with pytest.raises(UserError, match="exceed the 128"):
        replace(stage, prompts=(SoftPrompt(tokens=126),)).check(results_of(stage))


def test_a_text_is_a_hard_prompt(stage: FitSoftPrompts) -> None:
    codec = load_tokenizer(stage.subject.codec, results_of(stage))
    text = "the cat"
    hard = SoftPrompt(tokens=len(codec.encode(text)), initial=Text(text=text), label="hard")
    _, vectors = run(replace(stage, prompts=(hard,), steps=0))
    assert vectors["digits.hard"].tokens == len(codec.encode(text))
