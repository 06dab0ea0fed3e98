"""Released models: descriptions, equal logits, and errors in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from halflife.errors import UserError
from halflife.models import hugging_face
from halflife.models.prepare import prepare_model
from halflife.models.released import Released
from halflife.models.start import bare, fresh, record
from tests.models import tiny


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("models") / f"tiny-{request.param}", request.param)


@pytest.fixture(scope="module")
def released(folder: Path, results: Path) -> Released:
    return prepare_model(str(folder), results)


def tokens() -> torch.Tensor:
    return torch.randint(0, tiny.VOCABULARY, (3, 17), generator=torch.Generator().manual_seed(0))


def test_logits_are_those_of_transformers_to_the_bit(folder: Path, released: Released) -> None:
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    ours = hugging_face.load(released).eval()
    with torch.no_grad():
        assert torch.equal(ours(tokens()), theirs(tokens()).logits)


def test_right_padding_changes_no_logits_before_it(released: Released) -> None:
    ours = hugging_face.load(released).eval()
    padded = torch.cat([tokens(), torch.zeros(3, 5, dtype=torch.long)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(ours(padded)[:, :17], ours(tokens()), rtol=1e-4, atol=1e-5)


def test_residuals_begin_with_the_embedding_and_end_with_the_input_of_the_head(released: Released) -> None:
    ours = hugging_face.load(released).eval()
    with torch.no_grad():
        embedded = ours.embed(tokens())
        found = ours.residuals(embedded)
        assert len(found) == released.layers + 1
        assert torch.equal(found[-1], ours.hidden(embedded))
        assert torch.equal(ours.logits(found[-1]), ours(tokens()))
        assert not torch.equal(found[1], found[0])


def test_the_description_counts_what_the_model_has(released: Released) -> None:
    model = hugging_face.load(released)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert released.parameters + released.embedding_parameters(0) == total
    assert (released.layers, released.width, released.shape.vocabulary) == (2, 32, tiny.VOCABULARY)
    assert released.multiplier == 1


def test_a_model_of_another_size_costs_in_proportion(released: Released) -> None:
    assert released.flops_per_token(64, 300) > 6 * released.parameters
    assert released.activation_bytes(300) > 4 * 3 * tiny.VOCABULARY


def test_every_parameter_has_a_kind(released: Released) -> None:
    model = hugging_face.load(released)
    kinds = {name: model.kind(name) for name, _ in model.named_parameters()}
    assert {"embed", "hidden", "gain"} <= set(kinds.values())
    assert all((kind == "gain") == (model.get_parameter(name).ndim == 1) for name, kind in kinds.items())
    assert [name for name, _ in model.named_parameters() if model.get_parameter(name) is model.embed.weight] == [
        name for name, kind in kinds.items() if kind == "embed" and "wpe" not in name
    ]


def test_a_checkpoint_rebuilds_the_model_without_the_folder(released: Released) -> None:
    model = fresh(released, 300, 0.0, seed=0).eval()
    state = json.loads(json.dumps(record(model)))
    again = bare(released, 300, 0.0, state).eval()
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in again.named_parameters():
            parameter.copy_(weights[name])
        assert torch.equal(again(tokens()), model(tokens()))


def test_identity_is_the_content_regardless_of_the_path(
    folder: Path, released: Released, results: Path, tmp_path: Path
):
    moved = shutil.copytree(folder, tmp_path / "moved")
    again = prepare_model(str(moved), results)
    assert again == released
    assert again.name == "moved"
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**config, "initializer_range": 0.5}))
    assert prepare_model(str(moved), results) != released


def test_dropout_is_the_stages_not_the_configurations(released: Released) -> None:
    model = hugging_face.load(released).train()
    assert torch.equal(model(tokens()), model(tokens()))
    if released.shape.dropout:
        model = hugging_face.load(released, dropout=0.5).train()
        assert not torch.equal(model(tokens()), model(tokens()))


def test_pickled_weights_are_converted_once(results: Path, tmp_path: Path) -> None:
    path = tiny.folder(tmp_path / "old", "gpt_neox")
    whole = prepare_model(str(path), results)
    expected = hugging_face.load(whole).eval()
    torch.save(tiny.model("gpt_neox").state_dict(), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    pickled = prepare_model(str(path), results)
    assert Path(pickled.folder).parent == results.resolve() / "models"
    assert pickled.parameters == whole.parameters
    with torch.no_grad():
        assert torch.equal(hugging_face.load(pickled).eval()(tokens()), expected(tokens()))


def test_a_gguf_file_gives_the_logits_of_its_original_model(results: Path, tmp_path: Path) -> None:
    theirs = tiny.gguf(tmp_path / "tiny.gguf")
    released = prepare_model(str(tmp_path / "tiny.gguf"), results)
    assert (released.name, released.shape.family) == ("tiny", "llama")
    with torch.no_grad():
        ours = hugging_face.load(released).eval()(tokens())
        torch.testing.assert_close(ours, theirs(tokens()).logits, rtol=1e-4, atol=1e-5)


def test_a_gguf_file_of_an_unsupported_kind_is_refused_in_one_line(results: Path, tmp_path: Path) -> None:
    tiny.gguf(tmp_path / "strange.gguf", family="wkv9")
    with pytest.raises(UserError, match="wkv9") as refused:
        prepare_model(str(tmp_path / "strange.gguf"), results)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no weights"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
def test_an_incomplete_folder_is_refused(missing: str, line: str, results: Path, tmp_path: Path) -> None:
    path = tiny.folder(tmp_path / "part", "llama")
    (path / missing).unlink()
    with pytest.raises(UserError, match=line):
        prepare_model(str(path), results)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"architectures": ["BertForMaskedLM"]}, "causal"),
        ({"hidden_size": None}, "hidden_size"),
        ({"model_type": "wkv9"}, "wkv9"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
    ],
)
def test_a_configuration_of_something_else_is_refused(content: dict, line: str, results: Path, tmp_path: Path) -> None:
    path = tiny.folder(tmp_path / "other", "llama")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **content}))
    with pytest.raises(UserError, match=line):
        prepare_model(str(path), results)


@pytest.mark.parametrize("name", ["no folder at all", "./nowhere", "nowhere.gguf"])
def test_a_source_that_is_not_a_model_is_refused(name: str, results: Path) -> None:
    with pytest.raises(UserError, match="given"):
        prepare_model(name, results)


def test_a_name_without_a_network_is_refused_in_one_line(
    results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="give its folder") as refused:
        prepare_model("EleutherAI/pythia-70m@step3000", results)
    assert "\n" not in str(refused.value)


def test_the_identity_of_a_name_is_its_commit(results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the Hub's cache of a machine that has downloaded two revisions of a model."""
    import huggingface_hub

    for commit in ("a" * 40, "b" * 40):
        tiny.folder(tmp_path / "snapshots" / commit, "llama")
    revisions = {None: "a" * 40, "step3000": "b" * 40}

    def snapshot(name: str, revision: str | None = None, **patterns: object) -> str:
        assert name == "someone/model"
        return str(tmp_path / "snapshots" / revisions[revision])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    newest = prepare_model("someone/model", results)
    earlier = prepare_model("someone/model@step3000", results)
    assert (newest.name, earlier.name) == ("model", "model@step3000")
    assert newest != earlier
    assert prepare_model("someone/model", results) == newest


def test_describing_a_model_imports_neither_torch_nor_transformers(folder: Path, results: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from halflife.models.prepare import prepare_model; "
        f"prepare_model({str(folder)!r}, Path({str(results)!r})); "
        "import halflife.data.tokenizers, halflife.stages.train; "
        "print([name for name in ('torch', 'transformers', 'peft', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, results: Path) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"transformers, which is not installed.*hf"):
        prepare_model("someone/model", results)
