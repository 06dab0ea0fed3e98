"""SAELens' folders: what is written is read back, and what cannot be read is refused in one line."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from halflife.errors import UserError
from halflife.interpret import sae_lens
from halflife.interpret.autoencoder import Autoencoder, Scale
from halflife.interpret.sae_lens import CONFIG, SCALES, WEIGHTS


def made(latents: int, width: int, k: int | None, scale: Scale = "rms", centred: bool = True) -> Autoencoder:
    draw = torch.Generator().manual_seed(0)
    shapes = ((latents, width), (latents,), (latents, width), (width,))
    parts = [torch.randn(shape, generator=draw) for shape in shapes]
    threshold = torch.rand(1, generator=draw) if k is None else None
    return Autoencoder(*parts, k=k, threshold=threshold, scale=scale, centred=centred)


@given(
    latents=st.integers(2, 12),
    width=st.integers(2, 6),
    k=st.one_of(st.none(), st.integers(1, 2)),
    scale=st.sampled_from(list(SCALES)),
    centred=st.booleans(),
)
def test_what_is_written_is_read_back(latents: int, width: int, k: int | None, scale: Scale, centred: bool) -> None:
    one, x = made(latents, width, k, scale, centred), torch.randn(5, width, generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder:
        sae_lens.write(Path(folder), one, {"hook_name": "residual-1"})
        again = sae_lens.read(Path(folder))
        config = json.loads((Path(folder) / CONFIG).read_text())
    assert (again.k, again.scale, again.centred) == (k, scale, centred)
    assert torch.equal(again.codes(x)[0], one.codes(x)[0])
    assert torch.equal(again(x), one(x))
    assert (config["d_in"], config["d_sae"], config["metadata"]) == (width, latents, {"hook_name": "residual-1"})


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"architecture": "gated"}, "of architecture 'gated' given: expected one of topk, jumprelu, standard"),
        ({"normalize_activations": "expected_average_only_in"}, "of normalize_activations 'expected_average_only_in'"),
        ({"reshape_activations": "hook_z"}, "of reshape_activations 'hook_z' given: expected one of none"),
        ({"architecture": "jumprelu"}, "its weights lack threshold"),
    ],
)
def test_a_folder_of_another_kind_is_refused(tmp_path: Path, fields: dict[str, Any], line: str) -> None:
    sae_lens.write(tmp_path, made(5, 3, 2))
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | fields))
    with pytest.raises(UserError, match=line) as error:
        sae_lens.read(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a folder of SAELens with cfg.json and sae_weights.safetensors"):
        sae_lens.read(tmp_path)
    sae_lens.write(tmp_path, made(5, 3, 2))
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({name: value for name, value in tensors.items() if name != "W_dec"}, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match="its weights lack W_dec"):
        sae_lens.read(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(UserError, match="expected a folder of SAELens"):
        sae_lens.read(tmp_path)
