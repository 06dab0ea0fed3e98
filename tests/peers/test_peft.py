"""peft's prompt tuning, in an environment of its own: it reads its own folder and gives the logits that the suite's
test_fixtures.py holds halflife to. `python -m tests.peers.test_peft` there writes both anew, in tests/peers/peft."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.peers.llama import TOKENS, model

pytestmark = pytest.mark.peer
FOLDER = Path(__file__).parent / "peft"
LOGITS = FOLDER / "logits.json"


def logits_behind(prompted: Any) -> list[list[float]]:
    with torch.no_grad():
        return prompted(input_ids=torch.tensor([TOKENS])).logits[0].double().tolist()


def test_peft_reads_the_folder_and_gives_the_logits_of_the_fixture() -> None:
    import peft

    prompted = peft.PeftModel.from_pretrained(model(), str(FOLDER)).eval()
    np.testing.assert_allclose(logits_behind(prompted), json.loads(LOGITS.read_text()), rtol=1e-5, atol=1e-5)


def test_its_prompt_changes_the_logits() -> None:
    with torch.no_grad():
        bare = model()(input_ids=torch.tensor([TOKENS])).logits[0].numpy()
    prompted = np.array(json.loads(LOGITS.read_text()))
    assert prompted.shape[0] == len(TOKENS) + 3
    assert np.abs(prompted[3:] - bare).max() > 0.1


def write() -> None:
    import peft

    config = peft.PromptTuningConfig(
        task_type=peft.TaskType.CAUSAL_LM, num_virtual_tokens=3, prompt_tuning_init=peft.PromptTuningInit.RANDOM
    )
    prompted: Any = peft.get_peft_model(model(), config).eval()
    vectors = np.random.default_rng(1).normal(0, 0.3, (3, 32))
    with torch.no_grad():
        prompted.prompt_encoder["default"].embedding.weight.copy_(torch.from_numpy(vectors))
    prompted.save_pretrained(FOLDER)
    (FOLDER / "README.md").unlink(missing_ok=True)  # a model card to fill in
    rounded = [[round(value, 6) for value in row] for row in logits_behind(prompted)]
    LOGITS.write_text(json.dumps(rounded) + "\n")


if __name__ == "__main__":
    write()
