"""TransformerLens, in an environment of its own: the same steered logits, and what its hooks cost beside ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers.steered import TOKENS, VECTOR, compared, llama

pytestmark = pytest.mark.peer


def test_a_vector_added_by_its_hooks_gives_the_same_logits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformer_lens.model_bridge import TransformerBridge  # pyright: ignore[reportMissingImports]

    model = llama(tmp_path)
    bridge = TransformerBridge.boot_transformers(str(tmp_path), device="cpu")
    hooks = [("blocks.0.hook_out", lambda x, hook: x + VECTOR)]
    line = compared(model, "TransformerLens", lambda: bridge.run_with_hooks(TOKENS, fwd_hooks=hooks))
    with capsys.disabled():
        print(f"\n{line}")
