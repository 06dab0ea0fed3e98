"""Three ways to train the same shape on the same rows: our loop, a bare PyTorch loop, the Hugging Face Trainer."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from halflife.data.corpus import Corpus
from halflife.data.mixture import Batches, Mixture, Source
from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from halflife.stages.train import Train
from halflife.training.loop import train
from halflife.training.optimizers import AdamW
from tests.training.fakes import Host

BATCH_TOKENS = 4096
RATE = 0.003


def contenders(size: str, steps: int, corpus: Corpus, results: Path) -> dict[str, Callable[[], float]]:
    """By name, functions that train for `steps` steps and return tokens a second. All draw rows from `corpus`;
    only our loop draws them within the time that is counted."""
    rung = Rung(size=size)
    stage = Train(
        start=rung,
        mixture=Mixture(sources=(Source(corpus=corpus),)),
        tokens=steps * BATCH_TOKENS,
        batch_tokens=BATCH_TOKENS,
        optimizer=AdamW(learning_rate=RATE, weight_decay=0.1),
    )
    batches = Batches(stage.mixture, results, batch_tokens=BATCH_TOKENS, steps=steps, key=("bench",))
    rows = [torch.from_numpy(batches.batch(step)) for step in range(steps)]

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            summary = train(stage, Host(Path(folder)), batches=batches, measures={})
        return summary["tokens_per_second"]

    def bare() -> float:
        model = Decoder(rung, batches.vocabulary)
        model.initialise(torch.Generator().manual_seed(0))
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1, fused=True)
        started = time.perf_counter()
        for tokens in rows:
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            loss.item()
        return steps * BATCH_TOKENS / (time.perf_counter() - started)

    def hugging_face() -> float:
        return hugging_face_speed(rung, batches.vocabulary, rows)

    return {"halflife": ours, "bare PyTorch loop": bare, "Hugging Face Trainer": hugging_face}


def hugging_face_speed(rung: Rung, vocabulary: int, rows: list[torch.Tensor]) -> float:
    """Tokens a second of the Trainer on a LlamaForCausalLM of the rung's shape, from its first step to its last."""
    from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    logging.getLogger("transformers").setLevel(logging.ERROR)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=rung.width,
        intermediate_size=rung.feedforward,
        num_hidden_layers=rung.layers,
        num_attention_heads=rung.heads,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        use_cache=False,
    )
    config._attn_implementation = "sdpa"
    examples = [{"input_ids": row[:-1], "labels": row[:-1]} for batch in rows for row in batch]

    class Stopwatch(TrainerCallback):
        started = ended = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.ended = time.perf_counter()

    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=len(rows),
            per_device_train_batch_size=len(rows[0]),
            learning_rate=RATE,
            weight_decay=0.1,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            max_grad_norm=1.0,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_num_workers=0,
        )
        trainer = Trainer(model=LlamaForCausalLM(config), args=arguments, train_dataset=examples, callbacks=[stopwatch])  # pyright: ignore[reportArgumentType]
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return len(rows) * rows[0][:, :-1].numel() / (stopwatch.ended - stopwatch.started)
