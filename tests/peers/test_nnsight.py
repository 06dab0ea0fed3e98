"""nnsight, in an environment of its own: the same steered logits, and what its traces cost beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.peers.steered import TOKENS, VECTOR, compared, llama

pytestmark = pytest.mark.peer


def test_a_vector_added_in_its_trace_gives_the_same_logits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import nnsight  # pyright: ignore[reportMissingImports]

    model = llama(tmp_path)
    traced: Any = nnsight.NNsight(model)

    def call() -> Tensor:
        with traced.trace(TOKENS, use_cache=False):
            traced.model.layers[0].output = traced.model.layers[0].output + VECTOR
            logits = traced.output.logits.save()
        return logits

    line = compared(model, "nnsight", call)
    with capsys.disabled():
        print(f"\n{line}")
