"""What a model folder is refused for before any compute, and what is counted, by the headers of its weights."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from halflife import digests
from halflife.errors import UserError
from halflife.models import hugging_face
from halflife.models.families import family
from halflife.models.prepare import prepare_model
from halflife.models.shapes import context, read_shape
from halflife.models.weights import INDEX, SINGLE
from tests.models import tiny

Weights = dict[str, np.ndarray]


def rewritten(folder: Path, change: Callable[[Weights], Weights]) -> None:
    weights = change(load_file(folder / SINGLE))
    (folder / SINGLE).unlink()
    save_file(weights, folder / SINGLE, metadata={"format": "pt"})


def configured(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


MASK = np.tril(np.ones((1, 1, 128, 128), dtype=bool))


def pythia(layer: int) -> Weights:
    at = f"gpt_neox.layers.{layer}.attention."
    return {
        f"{at}bias": MASK,
        f"{at}masked_bias": np.array(-1e9, dtype=np.float32),
        f"{at}rotary_emb.inv_freq": np.ones(2, dtype=np.float32),
    }


def gpt2(layer: int) -> Weights:
    """OpenAI's, whose masks are floating-point numbers."""
    return {f"transformer.h.{layer}.attn.bias": MASK.astype(np.float32)}


def further_tokens(layer: int) -> Weights:
    """As DeepSeek V3's: one more layer, which predicts the token after the next."""
    return {"model.layers.2.mlp.up_proj.weight": np.ones((48, 32), dtype=np.float32)} if layer else {}


@pytest.mark.parametrize(
    ("kind", "stored"), [("gpt_neox", pythia), ("gpt2", gpt2), ("llama", further_tokens)], ids=["pythia", "gpt2", "mtp"]
)
def test_only_what_is_trained_is_counted(
    kind: str, stored: Callable[[int], Weights], results: Path, tmp_path: Path
) -> None:
    folder = tiny.folder(tmp_path / "model", kind)
    plain = prepare_model(str(folder), results).shape
    rewritten(folder, lambda weights: {**weights, **stored(0), **stored(1)})
    released = prepare_model(str(folder), results)
    assert released.shape == plain
    model = hugging_face.load(released)
    assert released.parameters + released.shape.embeddings == sum(p.numel() for p in model.parameters())


def test_a_tied_head_that_is_stored_too_is_counted_once(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "model", "llama")
    plain = read_shape(folder)
    rewritten(folder, lambda weights: {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].copy()})
    assert read_shape(folder) == plain


def test_a_matrix_with_as_many_rows_as_tokens_is_no_embedding(tmp_path: Path) -> None:
    changed = {"vocab_size": 48, "max_position_embeddings": 48}  # 48 is also the width of the feed-forward layer
    model = tiny.configured("opt", **changed, ffn_dim=48)
    model.save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    assert shape.embeddings == 48 * 32
    assert shape.parameters == sum(p.numel() for p in model.parameters()) - 48 * 32


def shortened(folder: Path) -> None:
    whole = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(whole[:-1000])


def pointed(folder: Path) -> None:
    (folder / SINGLE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def sharded(folder: Path, moved: str | None = None) -> None:
    """In two shards, of which the index puts the tensor `moved` into the other one."""
    weights = sorted(load_file(folder / SINGLE).items())
    (folder / SINGLE).unlink()
    files = {}
    for number, part in enumerate((dict(weights[::2]), dict(weights[1::2])), start=1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file(part, folder / name, metadata={"format": "pt"})
        files |= dict.fromkeys(part, name)
    if moved:
        files[moved] = next(name for name in files.values() if name != files[moved])
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


def without_index(folder: Path) -> None:
    sharded(folder)
    (folder / INDEX).unlink()


def without_head(folder: Path) -> None:
    rewritten(folder, lambda weights: {name: value for name, value in weights.items() if "embed_out" not in name})


def with_another_head(folder: Path) -> None:
    configured(folder, tie_word_embeddings=True)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (shortened, "has 144,152 bytes, and by its header 145,152"),
        (pointed, "git lfs pull"),
        (lambda folder: (folder / SINGLE).write_bytes(b"{}"), "not a safetensors file"),
        (lambda folder: sharded(folder, "embed_out.weight"), "of-00002.safetensors lacks embed_out.weight"),
        (without_index, "without model.safetensors.index.json"),
        (lambda folder: (sharded(folder), (folder / INDEX).write_text("[]")), "not an index of weights"),
        (without_head, "no head, only gpt_neox.embed_in.weight"),
        (with_another_head, "set tie_word_embeddings to false"),
        (lambda folder: configured(folder, num_hidden_layers=3), "lack layer 2 of the 3"),
        (lambda folder: configured(folder, vocab_size=500), "no embedding of 500 tokens"),
    ],
)
def test_damaged_weights_are_refused(
    damage: Callable[[Path], object], line: str, results: Path, tmp_path: Path
) -> None:
    folder = tiny.folder(tmp_path / "model", "gpt_neox")
    damage(folder)
    with pytest.raises(UserError, match=line) as refused:
        prepare_model(str(folder), results)
    assert "\n" not in str(refused.value)


def test_shards_are_counted_as_one_file(results: Path, tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "model", "gpt_neox")
    shape = read_shape(folder)
    sharded(folder)
    released = prepare_model(str(folder), results)
    assert released.shape == shape
    hugging_face.load(released)


def test_a_head_with_layers_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "model", "gpt_neox")
    rewritten(folder, lambda weights: {**weights, "lm_head.dense.weight": np.ones((32, 32), dtype=np.float32)})
    with pytest.raises(UserError, match=re.escape("layers of its own (lm_head.dense.weight)")):
        read_shape(folder)


def test_a_family_without_attention_is_refused_by_name(results: Path, tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "model", "gpt_neox")
    configuration = {"model_type": "mamba", "vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2}
    (folder / "config.json").write_text(json.dumps(configuration))
    with pytest.raises(UserError, match="the family mamba has no attention"):
        prepare_model(str(folder), results)


def test_a_model_of_any_size_is_refused_or_described_by_its_headers(tmp_path: Path) -> None:
    """20 GB of zeros that take no space, without reading them."""
    tiny.folder(tmp_path / "model", "gpt_neox")
    shape = read_shape(tmp_path / "model")
    width, rows = 4096, 1_220_704
    header = json.dumps({"x.weight": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, 4 * rows * width]}})
    sharded(tmp_path / "model")
    part = tmp_path / "model" / "model-00003-of-00003.safetensors"
    with open(part, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + 4 * rows * width)
    index = json.loads((tmp_path / "model" / INDEX).read_text())
    index["weight_map"]["x.weight"] = part.name
    (tmp_path / "model" / INDEX).write_text(json.dumps(index))
    start = time.perf_counter()
    assert read_shape(tmp_path / "model").parameters == shape.parameters + rows * width
    assert time.perf_counter() - start < 2


def test_a_downloaded_folder_keeps_its_identity_without_being_read(results: Path, tmp_path: Path) -> None:
    """By huggingface_hub's own note of the digest, unless the file was changed later."""
    folder = tiny.folder(tmp_path / "model", "gpt_neox")
    plain = prepare_model(str(folder), results)
    digest, noted = digests.file_digest(folder / SINGLE), (folder / SINGLE).stat().st_mtime
    notes = folder / ".cache/huggingface/download"
    notes.mkdir(parents=True)

    def digest_of(sha256: str, time: float) -> str:
        (notes / f"{SINGLE}.metadata").write_text(f"{'a' * 40}\n{sha256}\n{time}\n")
        return prepare_model(str(folder), tmp_path / f"{len(sha256)} {sha256[0]} {time}").digest

    assert digest_of(digest, noted) == plain.digest
    assert digest_of("0" * 64, noted) != plain.digest  # it was not read
    assert digest_of("0" * 64, noted - 60) == plain.digest
    assert digest_of("0" * 40, noted) == plain.digest  # of a small file, git's digest
    blob = tmp_path / "blobs" / digest  # as in huggingface_hub's cache
    blob.parent.mkdir()
    (folder / SINGLE).rename(blob)
    (folder / SINGLE).symlink_to(blob)
    assert digests.downloaded_digest(folder / SINGLE) == digest


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({"model_type": "bloom", "n_layer": 2}, None),
        ({"model_type": "gpt2", "n_positions": 77}, 77),
        ({"model_type": "llama", "max_position_embeddings": 99}, 99),
        ({"model_type": "mpt", "max_seq_len": 55}, 55),
    ],
)
def test_the_longest_sequence_has_a_name_in_each_family(config: dict[str, object], longest: int | None) -> None:
    assert context(config) == longest


def test_a_familys_own_names_are_those_of_transformers() -> None:
    import transformers

    for kind in ("mpt", "xglm", "gpt2", "gpt_neo", "llama"):
        known = family(kind)
        assert known is not None
        config = transformers.AutoConfig.for_model(kind)
        assert known.names == (config.attribute_map or {})
        for field in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "tie_word_embeddings"):
            assert known.value({}, field) == getattr(config, field)
    assert family("wkv9") is None
