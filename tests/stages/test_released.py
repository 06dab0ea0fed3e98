"""Released models as starts of stages: trained, forked from, resumed, exported, refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from halflife.__main__ import main
from halflife.data.codecs import load
from halflife.data.corpus import Corpus
from halflife.data.mixture import Mixture, Source
from halflife.data.pretrained import prepare_tokenizer
from halflife.data.tokenizers import BPE, Pretrained, Tokenizer
from halflife.errors import UserError
from halflife.evaluation.probes import Ends, Evaluation, LossProbe
from halflife.models import hugging_face
from halflife.models.ladder import Rung
from halflife.models.prepare import prepare_model
from halflife.models.released import Released
from halflife.stages.export import export_stage
from halflife.stages.train import Checkpoint, Train
from halflife.store.run import run_stage
from halflife.store.store import Store
from halflife.training import checkpoints
from halflife.training.objectives import L2SP, NextToken
from halflife.training.optimizers import AdamW
from halflife.training.parameters import Frozen, LoRA
from halflife.training.schedules import Schedule
from halflife.training.torch_engine import load_weights
from tests.data.samples import sample_corpus
from tests.models import tiny

ENDS = Schedule(shape="continue")


@pytest.fixture(scope="module")
def corpus(results: Path) -> Corpus:
    return sample_corpus(results)


@pytest.fixture(scope="module", params=["gpt_neox", "llama"])
def released(request: pytest.FixtureRequest, results: Path, tmp_path_factory: pytest.TempPathFactory) -> Released:
    folder = tiny.folder(tmp_path_factory.mktemp("models") / request.param, request.param)
    return prepare_model(str(folder), results)


@pytest.fixture
def trunk(released: Released, corpus: Corpus, results: Path) -> Train:
    tokenizer = prepare_tokenizer(Path(released.folder), results)
    return train(released, corpus, tokenizer)


def train(start: Released | Rung, corpus: Corpus, tokenizer: Tokenizer) -> Train:
    probe = LossProbe(corpus=corpus, sequences=4)
    return Train(
        start=start,
        mixture=Mixture(sources=(Source(corpus=corpus),), tokenizer=tokenizer, sequence=32),
        tokens=6 * 128,
        batch_tokens=128,
        optimizer=AdamW(learning_rate=3e-3),
        evaluations=(Evaluation(name="clean", probe=probe, at=Ends()),),
    )


def logits(folder: Path, results: Path, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return hugging_face.load(prepare_model(str(folder), results)).eval()(tokens)


def test_a_released_model_is_trained_forked_from_and_exported_with_equal_logits(
    trunk: Train, released: Released, results: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    store = Store(results)
    branch = replace(trunk, start=Checkpoint(stage=trunk), schedule=ENDS)
    outcome = run_stage(branch, store)
    before = run_stage(trunk, store).summary["final"]["clean/loss"]
    assert outcome.status == "complete"
    assert outcome.summary["final"]["clean/loss"] < before
    assert outcome.summary["parameters"] == released.parameters
    export_stage(store, branch.key, tmp_path / "out")
    tokens = torch.randint(0, 300, (2, 20))
    again = logits(tmp_path / "out", results, tokens)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.equal(theirs(tokens).logits, again)
    # the checkpoint's model, built without the released folder, has the same logits
    folder = store.verified(branch)
    assert folder is not None
    state = json.loads((folder / "final" / "state.json").read_text())
    kept = hugging_face.build(released, state["configuration"]).eval()
    load_weights(kept, checkpoints.read_weights(folder / "final"))
    with torch.no_grad():
        assert torch.equal(kept(tokens), again)
    codec = load(trunk.mixture.tokenizer, results)
    text = "the cat sat on the mat"
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(text).input_ids == list(codec.encode(text))


@pytest.mark.parametrize("family", ["bloom", "mpt"])
def test_a_family_with_names_of_its_own_is_exported(family: str, corpus: Corpus, results: Path, tmp_path: Path) -> None:
    """Bloom has no longest sequence; MPT's has another name."""
    folder = tiny.folder(tmp_path / family, family)
    released = prepare_model(str(folder), results)
    stage = replace(train(released, corpus, prepare_tokenizer(folder, results)), tokens=128)
    run_stage(stage, Store(results))
    export_stage(Store(results), stage.key, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config.get("model_max_length") == {"bloom": None, "mpt": 128}[family]
    again = prepare_model(str(tmp_path / "out"), results)
    assert replace(again.shape, dropout=None) == replace(released.shape, dropout=None)
    assert torch.isfinite(logits(tmp_path / "out", results, torch.zeros(1, 4, dtype=torch.long))).all()


def test_any_stage_forks_from_merged_lora(trunk: Train, results: Path, tmp_path: Path) -> None:
    store = Store(results)
    lora = replace(trunk, parameters=LoRA(rank=2))
    again = replace(lora, start=Checkpoint(stage=lora), optimizer_state="reset")
    whole = replace(trunk, start=Checkpoint(stage=lora), optimizer_state="reset", tokens=128)
    for stage in (again, whole):
        outcome = run_stage(stage, store)
        assert outcome.summary["final"]["clock/displacement"] > 0
    export_stage(store, lora.folder_name, tmp_path / "out")
    assert torch.isfinite(logits(tmp_path / "out", results, torch.zeros(1, 4, dtype=torch.long))).all()


def test_an_exported_stage_can_start_another(corpus: Corpus, results: Path, tmp_path: Path) -> None:
    own = train(Rung(size="20k"), corpus, BPE(corpus=corpus, vocabulary=300))
    run_stage(own, Store(results))
    export_stage(Store(results), own.key, tmp_path / "own")
    released = prepare_model(str(tmp_path / "own"), results)
    tokenizer = prepare_tokenizer(tmp_path / "own", results)
    next_ = train(released, corpus, tokenizer)
    outcome = run_stage(next_, Store(results))
    points = outcome.summary["final"]
    assert points["clean/loss"] < run_stage(own, Store(results)).summary["final"]["clean/loss"]
    assert (released.shape.family, released.shape.context) == ("llama", 32)


def test_the_key_depends_on_the_content_not_the_folder(trunk: Train, released: Released) -> None:
    elsewhere = replace(released, folder="/elsewhere", source="/elsewhere", name="another name")
    assert replace(trunk, start=elsewhere).key == trunk.key
    assert replace(trunk, start=replace(released, digest="0" * 20)).key != trunk.key
    assert replace(trunk, parameters=LoRA()).key != trunk.key


def test_export_refuses_in_one_line(trunk: Train, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run_stage(trunk, Store(results))
    for arguments, line in (
        (["export", trunk.key, "--out", str(tmp_path)], "exists already"),
        (["export", trunk.key, "--out", str(tmp_path / "x"), "--at", "nowhere"], "keeps none and 'final'"),
        (["export", "0123456789", "--out", str(tmp_path / "x")], "no stage"),
    ):
        assert main([*arguments, "--results", str(results)]) == 2
        error = capsys.readouterr().err.strip()
        assert line in error
        assert "\n" not in error
    assert not (tmp_path / "x").exists()


def test_settings_that_a_released_model_does_not_support_are_refused(trunk: Train, released: Released) -> None:
    mixture, lora = trunk.mixture, LoRA(rank=2)
    large = Pretrained(digest="0" * 20, vocabulary=tiny.VOCABULARY + 1)
    tagged = replace(mixture.tokenizer, special=tuple(f"<{index}>" for index in range(tiny.VOCABULARY)))
    cases = [
        ({"mixture": replace(mixture, sequence=256), "batch_tokens": 256}, "reads at most 128"),
        ({"mixture": Mixture(sources=mixture.sources, sequence=32)}, "its own tokenizer"),
        ({"mixture": replace(mixture, tokenizer=large)}, "own tokenizer"),
        ({"mixture": replace(mixture, tokenizer=tagged)}, "special tokens, as many as its embedding has unused rows"),
        ({"schedule": ENDS}, "without a checkpoint"),
        ({"parameters": LoRA(targets=("nothing",))}, "matrices of"),
        ({"parameters": Frozen(layers=3)}, "has 2"),
        ({"parameters": lora, "objectives": (NextToken(), L2SP(strength=0.1))}, "l2sp with LoRA"),
        ({"start": Checkpoint(stage=trunk), "parameters": lora}, "reset"),
        ({"start": Checkpoint(stage=trunk), "parameters": Frozen(layers=1)}, "reset"),
    ]
    if released.shape.dropout is None:
        cases.append(({"dropout": 0.1}, "weight decay or label smoothing"))
    for changes, line in cases:
        with pytest.raises(UserError, match=line):
            replace(trunk, **changes)


def test_planning_a_released_model_imports_neither_torch_nor_transformers(trunk: Train, results: Path) -> None:
    released = trunk.start
    assert isinstance(released, Released)
    program = (
        "import sys; from pathlib import Path; from halflife.kits.starts import starts; "
        f"starts((), ({released.folder!r},), Path({str(results)!r})); "
        "print([name for name in ('torch', 'transformers', 'peft', 'datasets', 'ray') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": "platform:."},
    )
    assert done.stdout.strip() == "[]"
