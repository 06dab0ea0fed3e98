"""Fitting soft prompts: frozen or not, in groups or one by one, keys and values shared or not, and against peft."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from halflife.evaluation.targets import Item, TargetItems
from halflife.models.decoder import Decoder
from halflife.models.hugging_face import HuggingFaceModel
from halflife.models.ladder import Rung
from halflife.models.start import freeze
from halflife.prompts.batch import scale_of
from halflife.prompts.groups import PromptGroup, Run, grouped
from halflife.prompts.soft_prompt import FitConfig, SoftPrompt
from halflife.training.torch_engine import keep_memory
from tests.benchmarks.figure import Figure
from tests.benchmarks.interleaved import ratio, rounds

VOCABULARY, ANSWER, BATCH, SECONDS = 257, 8, 8, 0.4
CPU = torch.device("cpu")


def texts(length: int, count: int = 64, vocabulary: int = VOCABULARY) -> TargetItems:
    """Random texts of `length` tokens and answers of ANSWER."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        tokens, answer = rng.integers(vocabulary, size=length), rng.integers(vocabulary, size=ANSWER)
        found.append(
            Item(
                tokens=np.concatenate([tokens, answer[:-1]]),
                after=np.arange(length, length + ANSWER),
                targets=answer,
                answer=length,
            )
        )
    return TargetItems("made", found, found[:8])


def decoder(size: str) -> Any:
    model = Decoder(Rung(size=size), VOCABULARY)
    model.initialise(torch.Generator().manual_seed(0))
    return model


def runs(model: Any, target: TargetItems, prompts: Sequence[SoftPrompt]) -> list[Run]:
    width = model.embed.weight.shape[1]
    return [Run(prompt.name, target, prompt, torch.randn(prompt.tokens, width)) for prompt in prompts]


class Whole(PromptGroup):
    """A plain step: the whole text, with the gradients of all parameters that require one."""

    def step(self, step: int, lr_multiplier: float) -> None:
        text = self.texts.take(torch.from_numpy(self.order[step]))
        parts = (self.model.embed(text.before)[None], self.batch.vectors(), self.model.embed(text.after)[None])
        whole = [part.expand(len(self.runs), len(text), -1, -1) for part in parts]
        hidden = self.model.hidden(torch.cat(whole, dim=2).flatten(0, 1))[:, -ANSWER:]
        targets = text.targets.repeat(len(self.runs), 1).flatten()
        loss = F.cross_entropy(self.model.logits(hidden).flatten(0, 1), targets) * len(self.runs)
        loss.backward()
        self.optimizer.step(lr_multiplier)
        for parameter in cast(nn.Module, self.model).parameters():
            parameter.grad = None


def steps_a_second(
    model: Any, groups: Sequence[Sequence[Run]], kind: type[PromptGroup] = PromptGroup
) -> Callable[[], float]:
    """Prompt-steps per second over all groups; about SECONDS per turn."""
    config, scale = FitConfig(steps=1000, batch=BATCH), scale_of(model.embed)
    made = [kind(model, group, config, scale, CPU) for group in groups]
    count = sum(len(group.runs) for group in made)

    def some(steps: int) -> float:
        started = time.perf_counter()
        for group in made:
            for step in range(steps):
                group.step(step, 1.0)
        return time.perf_counter() - started

    some(2)
    steps = min(1000, max(2, round(SECONDS / (some(3) / 3))))
    return lambda: count * steps / some(steps)


def compared(name: str, contenders: dict[str, Callable[[], float]], count: int, least: float) -> Figure:
    """How many times as fast as the second the first is."""
    ours, theirs = contenders
    speeds = list(rounds(contenders, count))
    found = ratio([speed[ours] for speed in speeds], [speed[theirs] for speed in speeds])
    middle = statistics.median(speed[ours] for speed in speeds)
    return Figure(
        name=f"{name}, {middle:,.0f} prompt-steps/s", value=found.median, unit="x", low=found.low, high=found.high,
        target=f"at least {least:g}", reached=bool(found.median >= least),
    )  # fmt: skip


def figures(count: int) -> list[Figure]:
    torch.set_num_threads(1)
    keep_memory()
    return [
        *(frozen_figure(size, count) for size in ("100k", "1m")),
        *(grouped_figure(size, length, count) for size, length in (("100k", 24), ("400k", 24), ("100k", 56))),
        shared_figure("100k", count),
        shared_figure("1m", count),
        *(peft_figure(family, count) for family in ("llama", "gpt_neox")),
    ]


def frozen_figure(size: str, count: int) -> Figure:
    prompts, target = [SoftPrompt(tokens=8, restart=restart) for restart in range(4)], texts(24)
    model, kept = freeze(decoder(size)), decoder(size).eval()
    contenders = {
        "frozen": steps_a_second(model, [runs(model, target, prompts)]),
        "gradients kept": steps_a_second(kept, [runs(kept, target, prompts)], Whole),
    }
    return compared(f"frozen, {size}: over keeping the model's gradients", contenders, count, 1.2)


def grouped_figure(size: str, length: int, count: int) -> Figure:
    model, target = freeze(decoder(size)), texts(length)
    prompts = [SoftPrompt(tokens=k, restart=restart) for k in (1, 2, 4, 8) for restart in range(4)]
    made = runs(model, target, prompts)
    groups = grouped(made, FitConfig(steps=1000, batch=BATCH), model.architecture, VOCABULARY, CPU)
    contenders = {
        "grouped": steps_a_second(model, groups),
        "one by one": steps_a_second(model, [[run] for run in made]),
    }
    name = f"groups of up to {max(map(len, groups))}, {size}, {length + ANSWER} tokens: over one by one"
    return compared(name, contenders, count, 1.0)


def shared_figure(size: str, count: int) -> Figure:
    """Keys and values of 128 tokens of text shared, or all of it computed in each step (frozen as well)."""
    model, target = freeze(decoder(size)), texts(128)
    prompts = [SoftPrompt(tokens=8, position="answer", restart=restart) for restart in range(4)]

    made = [runs(model, target, prompts)]
    contenders = {"shared": steps_a_second(model, made), "whole": steps_a_second(model, made, Whole)}
    return compared(f"keys and values of 128 tokens shared, {size}: over computing all", contenders, count, 3.0)


def peft_figure(family: str, count: int) -> Figure:
    """The same Hugging Face model behind 8 soft tokens, by peft's PromptTuning."""
    import peft
    import transformers

    shape = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 4}
    common = {"vocab_size": 2048, "max_position_embeddings": 256, **shape}
    kinds: dict[str, Any] = {"llama": transformers.LlamaConfig, "gpt_neox": transformers.GPTNeoXConfig}
    base = transformers.AutoModelForCausalLM.from_config(kinds[family](**common)).eval()
    target = texts(24, vocabulary=2048)
    config = peft.PromptTuningConfig(task_type=peft.TaskType.CAUSAL_LM, num_virtual_tokens=8)
    theirs = peft.get_peft_model(transformers.AutoModelForCausalLM.from_config(kinds[family](**common)).eval(), config)
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=1e-3, fused=True)
    rows = torch.from_numpy(np.stack([np.append(item.tokens, item.targets[-1]) for item in target.train]))
    labels = rows.clone()
    labels[:, :24] = -100

    def some(steps: int) -> float:
        started = time.perf_counter()
        for step in range(steps):
            at = slice(BATCH * (step % 8), BATCH * (step % 8) + BATCH)
            theirs(input_ids=rows[at], labels=labels[at], use_cache=False).loss.backward()
            torch.nn.utils.clip_grad_norm_([p for p in theirs.parameters() if p.requires_grad], 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    some(2)
    steps = max(2, round(SECONDS / (some(3) / 3)))
    ours: Any = HuggingFaceModel(base, architecture=None)  # pyright: ignore[reportArgumentType]
    model = freeze(ours)
    contenders = {
        "halflife": steps_a_second(model, [runs(model, target, [SoftPrompt(tokens=8)])]),
        "peft": lambda: steps / some(steps),
    }
    return compared(f"{family} of 6 layers and width 128: over peft PromptTuning", contenders, count, 1.0)
