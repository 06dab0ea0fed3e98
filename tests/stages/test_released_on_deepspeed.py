"""Released models trained by several workers: the torch engine's losses, and an export that is read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from halflife.data.mixture import Mixture, Source
from halflife.data.pretrained import prepare_tokenizer
from halflife.data.tokenizers import vocabulary_of
from halflife.evaluation.probes import Evaluation, Every, LossProbe
from halflife.models import hugging_face
from halflife.models.prepare import prepare_model
from halflife.stages.train import Train
from halflife.store.execution import Execution
from halflife.training import checkpoints
from halflife.training.loop import model_at
from halflife.training.optimizers import AdamW
from tests.data.samples import sample_corpus
from tests.models import tiny
from tests.training.fakes import Host
from tests.training.together import together

SEQUENCE = 32


def short(source: Path, results: Path) -> Train:
    """Ten steps from a model folder, each with its loss."""
    corpus = sample_corpus(results)
    tokenizer = prepare_tokenizer(source, results)
    return Train(
        start=prepare_model(str(source), results),
        mixture=Mixture(sources=(Source(corpus=corpus),), tokenizer=tokenizer, sequence=SEQUENCE),
        tokens=10 * 4 * SEQUENCE,
        batch_tokens=4 * SEQUENCE,
        optimizer=AdamW(learning_rate=3e-3, weight_decay=0.1),
        evaluations=(Evaluation(name="clean", probe=LossProbe(corpus=corpus, sequences=4), at=Every(steps=1)),),
    )


def points(
    stage: Train, folder: Path, results: Path, execution: Execution = Execution()
) -> dict[str, dict[str, float]]:
    """The points that the stage records in `folder`, by step, without speeds."""
    host = Host(folder)
    host.results, host.execution = results, execution
    stage.run(host)
    for values in host.points.values():
        values.pop("train/tokens_per_second", None)
    return {str(step): values for step, values in host.points.items()}


@pytest.mark.slow
def test_released_models_under_zero_have_the_losses_of_one_device_and_are_exported_and_reloaded(tmp_path: Path) -> None:
    results, families, zeros = tmp_path / "results", ("gpt_neox", "llama"), (1, 3)
    sources = {family: tiny.folder(tmp_path / family, family) for family in families}
    stages = {family: short(source, results) for family, source in sources.items()}
    given = {"sources": [str(source) for source in sources.values()], "results": str(results), "zeros": zeros}
    answers = together(tmp_path / "out", 2, {"released": {"task": "released", **given}})["released"]
    tokens = torch.randint(0, 300, (2, 20), generator=torch.Generator().manual_seed(0))
    for family, stage in stages.items():
        expected = points(stage, tmp_path / f"{family}-alone", results)
        assert len(expected) == 11
        whole = checkpoints.read_weights(tmp_path / f"{family}-alone" / "final")
        for zero in zeros:
            found = answers[f"{family}-{zero}"]
            assert found.keys() == expected.keys()
            for step, values in expected.items():
                assert found[step] == pytest.approx(values, rel=1e-4), (family, zero, step)
            final = tmp_path / "out" / f"{family}-{zero}" / "final"
            for name, weight in checkpoints.read_weights(final).items():
                torch.testing.assert_close(weight, whole[name], rtol=1e-3, atol=1e-4)
            trained: Any = model_at(final, stage.architecture, vocabulary_of(stage.mixture.tokenizer))[0]
            exported = trained.model.eval()  # transformers' own, as an export writes it
            target = tmp_path / f"{family}-{zero}-exported"
            exported.save_pretrained(target)
            for file in sources[family].glob("tokenizer*"):
                (target / file.name).write_bytes(file.read_bytes())
            again = hugging_face.load(prepare_model(str(target), results)).eval()
            with torch.no_grad():
                assert torch.equal(again(tokens), exported(tokens).logits)
