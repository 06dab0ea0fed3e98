"""One vector added after block 1 of a Llama folder: by a hook written by hand, by halflife, and by a peer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from torch import Tensor

VOCABULARY, WIDTH = 320, 256
TOKENS = torch.from_numpy(np.random.default_rng(0).integers(0, VOCABULARY, (16, 64)))
VECTOR = torch.from_numpy(np.random.default_rng(1).normal(0, 1, WIDTH)).float()
ROUNDS, SECONDS_A_TURN = 10, 0.3


def llama(folder: Path) -> Any:
    """A Llama of four blocks, written to `folder` with a tokenizer."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=128, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    model.save_pretrained(folder)
    words = tokenizers.models.WordLevel({f"t{i}": i for i in range(VOCABULARY)}, unk_token="t0")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(words), eos_token="t0", bos_token="t0", unk_token="t0", pad_token="t0"
    ).save_pretrained(folder)
    return model


def by_hand(model: Any) -> Tensor:
    def add(module: Any, args: Any, output: Any) -> Any:
        return (output[0] + VECTOR, *output[1:]) if isinstance(output, tuple) else output + VECTOR

    handle = model.model.layers[0].register_forward_hook(add)
    try:
        return model(TOKENS, use_cache=False).logits
    finally:
        handle.remove()


def by_halflife(model: Any) -> Callable[[], Tensor]:
    from halflife.models.changes import Add
    from halflife.models.hooks import edited
    from halflife.models.hugging_face import HuggingFaceModel
    from halflife.models.sites import Site

    architecture: Any = None  # read in messages only
    ours, change = HuggingFaceModel(model, architecture), {Site(layer=1): Add(VECTOR)}

    def call() -> Tensor:
        with edited(ours, change):
            return ours(TOKENS)

    return call


def compared(model: Any, peer: str, call: Callable[[], Tensor]) -> str:
    """Asserts that all three give the same logits. Returns their times over a hand-written hook's, in one line."""
    calls = {"by hand": lambda: by_hand(model), "halflife": by_halflife(model), peer: call}
    times: dict[str, list[float]] = {name: [] for name in calls}
    torch.set_num_threads(1)
    with torch.no_grad():
        expected = by_hand(model)
        for name, each in calls.items():
            torch.testing.assert_close(each(), expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: name + text)
        for _ in range(ROUNDS):
            for name, each in calls.items():
                began, passes = time.process_time(), 0
                while time.process_time() - began < SECONDS_A_TURN:
                    each()
                    passes += 1
                times[name].append((time.process_time() - began) / passes)
    hand = times["by hand"]
    ratios = {name: statistics.median(a / b for a, b in zip(taken, hand, strict=True)) for name, taken in times.items()}
    return "one vector at one site, over a hook by hand: " + ", ".join(
        f"{name} {ratio:.2f}" for name, ratio in ratios.items() if name != "by hand"
    )
