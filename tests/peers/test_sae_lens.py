"""SAELens, in an environment of its own: it reads our folders and we read its, with equal codes and reconstructions.
`python -m tests.peers.test_sae_lens` there writes anew what the suite's test_fixtures.py reads: tests/peers/sae_lens.
"""

from __future__ import annotations

import json
from dataclasses import replace
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


@pytest.mark.parametrize("seed", [0, 1])
def test_at_equal_samples_its_synthetic_benchmark_is_recovered_as_well_as_by_itself(tmp_path: Path, seed: int) -> None:
    """600 steps of 1,024 sums of 256 directions in 64 dimensions, Zipfian, at a rate of 0.02: of .005 to .04 the best
    for both. Neither scales the vectors, of which some are 0."""
    from sae_lens import SAE, TopKTrainingSAE, TopKTrainingSAEConfig  # pyright: ignore[reportAttributeAccessIssue]
    from sae_lens.synthetic.activation_generator import ActivationGenerator  # pyright: ignore[reportMissingImports]
    from sae_lens.synthetic.evals import eval_sae_on_synthetic_data  # pyright: ignore[reportMissingImports]
    from sae_lens.synthetic.feature_dictionary import FeatureDictionary  # pyright: ignore[reportMissingImports]
    from sae_lens.synthetic.firing_probabilities import zipfian_firing_probabilities  # pyright: ignore[reportMissingImports]
    from sae_lens.synthetic.training import train_toy_sae  # pyright: ignore[reportMissingImports]

    from halflife.interpret import sae_lens
    from halflife.interpret.dictionary import Dictionary, TopK
    from halflife.interpret.dictionary_fitting import Group
    from halflife.interpret.dictionary_recipe import DictionaryRecipe
    from halflife.models.sites import Site

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    width, features, rows, steps, rate = 64, 256, 1024, 600, 0.02
    directions = FeatureDictionary(features, width, seed=seed, initializer=None)
    often = zipfian_firing_probabilities(features, max_prob=0.2, min_prob=0.01)
    drawn, k = ActivationGenerator(features, often, std_firing_magnitudes=0.3), round(float(often.sum()))

    dictionary = Dictionary(latents=features, sparsity=TopK(k=k), seed=seed)
    recipe = DictionaryRecipe(dictionaries=(dictionary,), learning_rate=rate, steps=steps, rows=rows)
    group = Group(recipe, [Site(layer=1)], [dictionary], width, "cpu")
    for step in range(steps):
        x = directions(drawn.sample(rows)).detach()
        group.step(x[None], rate * recipe.schedule.lr_multiplier(step, steps))
    trained = group.module.inference(0, directions(drawn.sample(rows)).detach())
    sae_lens.write(tmp_path, replace(trained, scale="none"), {"hook_name": "synthetic"})

    theirs: Any = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=width, d_sae=features, k=k, use_sparse_activations=False))
    train_toy_sae(
        theirs, directions, drawn, training_samples=rows * steps, batch_size=rows, lr=rate,
        lr_warm_up_steps=steps // 20, lr_decay_steps=steps // 5,
    )  # fmt: skip
    found, expected = (
        eval_sae_on_synthetic_data(one, directions, drawn, 20_000, 5000)
        for one in (SAE.load_from_disk(tmp_path), theirs)
    )
    print(f"MCC {found.mcc:.3f}, theirs {expected.mcc:.3f}; "
          f"F1 {found.classification.f1_score:.3f}, theirs {expected.classification.f1_score:.3f}")  # fmt: skip
    assert found.mcc > 0.9
    assert found.mcc > expected.mcc - 0.01
    assert found.classification.f1_score > expected.classification.f1_score - 0.02


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
