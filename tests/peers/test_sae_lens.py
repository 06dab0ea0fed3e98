"""SAELens, in an environment of its own: it reads our folders and we read its, with equal codes and reconstructions.
`python -m tests.peers.test_sae_lens` there writes anew what the suite's test_fixtures.py reads: tests/peers/sae_lens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.peer
FOLDER = Path(__file__).parent / "sae_lens"
EXPECTED = "expected.json"
WIDTH, LATENTS, K = 12, 20, 4
KINDS = {
    "topk": {"architecture": "topk", "k": K, "normalize_activations": "constant_norm_rescale"},
    "topk-rescaled": {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True},
    "jumprelu": {"architecture": "jumprelu", "normalize_activations": "layer_norm"},
    "standard": {"architecture": "standard", "apply_b_dec_to_input": False},
}


def vectors() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(0.3, 2, (8, WIDTH))).float()


def theirs(folder: Path) -> tuple[Tensor, Tensor]:
    """Codes and reconstructions of `vectors` by the folder's dictionary, as SAELens computes them."""
    from sae_lens import SAE  # pyright: ignore[reportAttributeAccessIssue]

    dictionary: Any = SAE.load_from_disk(folder)
    with torch.no_grad():
        codes = dictionary.encode(vectors())
        return codes, dictionary.decode(codes)


def ours(folder: Path) -> tuple[Tensor, Tensor]:
    from halflife.interpret import sae_lens

    dictionary = sae_lens.read(folder)
    codes, normal = dictionary.codes(vectors())
    return codes, dictionary.decoded(codes, normal)


@pytest.mark.parametrize("kind", KINDS)
def test_sae_lens_reads_its_folder_and_gives_the_numbers_of_the_fixture_as_we_do(kind: str) -> None:
    expected = json.loads((FOLDER / kind / EXPECTED).read_text())
    for found in (theirs(FOLDER / kind), ours(FOLDER / kind)):
        for values, name in zip(found, ("codes", "reconstructions"), strict=True):
            np.testing.assert_allclose(values.numpy(), expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", ["TopK", "BatchTopK", "JumpReLU"])
def test_sae_lens_reads_a_folder_that_we_wrote(tmp_path: Path, rule: str) -> None:
    from halflife.interpret import dictionary, sae_lens
    from halflife.interpret.autoencoder import Autoencoders, Normal

    module = Autoencoders(WIDTH, LATENTS, getattr(dictionary, rule)(k=K), (1,), dead_after=10)
    with torch.no_grad():
        for part in module.parameters():
            part += 0.1 * torch.randn(part.shape, generator=torch.Generator().manual_seed(3))
    sae_lens.write(tmp_path, module.inference(0, Normal.of(vectors()).values), {"hook_name": "residual-1"})
    for one, other in zip(theirs(tmp_path), ours(tmp_path), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    if rule != "JumpReLU":  # its thresholds have not been trained
        assert float((theirs(tmp_path)[0] > 0).sum(1).float().mean()) == pytest.approx(K, abs=0.5)


def write() -> None:
    from sae_lens.registry import get_sae_class  # pyright: ignore[reportMissingImports]

    for number, (kind, fields) in enumerate(KINDS.items()):
        made, config = get_sae_class(fields["architecture"])
        dictionary: Any = made(config.from_dict({"d_in": WIDTH, "d_sae": LATENTS, **fields}))
        draw = np.random.default_rng(number + 1)
        with torch.no_grad():
            for name, part in dictionary.named_parameters():
                scale = 0.3 if name == "threshold" else 0.5
                values = draw.normal(0, scale, tuple(part.shape))
                part.copy_(torch.from_numpy(np.abs(values) if name == "threshold" else values))
        dictionary.save_model(FOLDER / kind)
        codes, reconstructions = theirs(FOLDER / kind)
        found = {"codes": codes.double().tolist(), "reconstructions": reconstructions.double().tolist()}
        rounded = {name: [[round(value, 6) for value in row] for row in rows] for name, rows in found.items()}
        (FOLDER / kind / EXPECTED).write_text(json.dumps({"vectors": vectors().double().tolist(), **rounded}) + "\n")


if __name__ == "__main__":
    write()
