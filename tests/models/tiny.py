"""Tiny released models of many families as folders, and a tokenizer trained on a few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VOCABULARY = 320
FAMILIES = ("gpt_neox", "llama", "qwen2", "gpt2")
"""Four that differ in where tests look: names, ties, key heads, dropout."""
ENDS = "<|endoftext|>"
TEXT = ["the cat sat on the mat\n", "def name(value):\n    return value + 1\n", "café naïve 😀\n"]

_COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
_LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_KEYS = {**_LLAMA, "num_key_value_heads": 2}
_GEMMA = {**_KEYS, "head_dim": 16}
_WINDOW = {"sliding_window": 8}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_OPT = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_FALCON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WINDOWED: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2": ("gemma2", {**_GEMMA, **_WINDOW}),
    "gemma3_text": ("gemma3_text", {**_GEMMA, **_WINDOW, "layer_types": ["sliding_attention", "full_attention"]}),
    "gpt_neo": (
        "gpt_neo",
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_layers": 2,
            "num_heads": 4,
            "window_size": 8,
            "attention_types": [[["global", "local"], 1]],
        },
    ),
    "mistral": ("mistral", {**_KEYS, **_WINDOW}),
    "phi3": ("phi3", {**_KEYS, **_WINDOW}),
}
"""Families with a window of 8 tokens, by name: model_type and configuration."""
NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere": ("cohere", {**_KEYS, "logit_scale": 0.25}),
    "granite": ("granite", {**_KEYS, "logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5}),
    "hyperclovax": ("hyperclovax", {**_KEYS, "logits_scaling": 4.0}),
    "mpt": ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}),
    "xglm": ("xglm", {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4}),
}
"""Families with names or logits of their own."""
PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "biogpt": ("biogpt", _LLAMA),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "codegen": ("codegen", {**_GPT2, "rotary_dim": 4}),
    "falcon": ("falcon", {**_FALCON, "multi_query": True, "bias": False}),
    "falcon with alibi": ("falcon", {**_FALCON, "alibi": True, "multi_query": False, "bias": True}),
    "gemma": ("gemma", _GEMMA),
    "gpt_bigcode": ("gpt_bigcode", _GPT2),
    "gptj": ("gptj", {**_GPT2, "rotary_dim": 4}),
    "mixtral": ("mixtral", {**_KEYS, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "nemotron": ("nemotron", _KEYS),
    "olmo2": ("olmo2", _LLAMA),
    "opt": ("opt", {**_OPT, "word_embed_proj_dim": 32}),
    "opt, narrow embedding": ("opt", {**_OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "phi": ("phi", _LLAMA),
    "qwen3": ("qwen3", {**_KEYS, "head_dim": 8}),
    "smollm3": ("smollm3", _KEYS),
    "stablelm": ("stablelm", _KEYS),
    "starcoder2": ("starcoder2", _KEYS),
}


def configured(family: str, **changes: Any) -> Any:
    """A transformers model of one of the dictionaries' families, with random weights."""
    import transformers

    kind, fields = {**WINDOWED, **NAMED, **PLAIN}[family]
    longest = {} if kind in ("bloom", "mpt") or "n_positions" in fields else {"max_position_embeddings": 128}
    config = transformers.AutoConfig.for_model(kind, **{**_COMMON, **longest, **fields, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter in made.parameters():  # far from the values that a fresh model starts with, such as 0 and 1
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.1)
    return made


def model(family: str, seed: int = 0, **changes: Any) -> Any:
    import transformers

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    common = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": 128}
    config = {
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**common, **shape, hidden_dropout=0.1, **changes),
        "llama": lambda: transformers.LlamaConfig(
            **common, **shape, num_key_value_heads=2, tie_word_embeddings=True, **changes
        ),
        "qwen2": lambda: transformers.Qwen2Config(**common, **shape, num_key_value_heads=2, **changes),
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=0
        ),
    }[family]()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def tokenizer() -> Any:
    """Byte-level BPE of 300 tokens, the first of which is the end-of-text token."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT * 20, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=[ENDS])
    )
    return made


def folder(path: Path, family: str, seed: int = 0, **changes: Any) -> Path:
    """A Hugging Face model folder at `path`."""
    from transformers import PreTrainedTokenizerFast

    made = model(family, seed, **changes) if family in FAMILIES else configured(family, **changes)
    made.save_pretrained(path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer(), eos_token=ENDS).save_pretrained(path)
    return path


def gguf(path: Path, family: str = "llama") -> Any:
    """Write the tiny Llama as a GGUF file that claims to be of `family`; returns the transformers model."""
    import gguf as library

    theirs, vocabulary = model("llama"), tokenizer()
    config, weights = theirs.config, {name: value.numpy() for name, value in theirs.state_dict().items()}
    writer = library.GGUFWriter(str(path), family)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCABULARY)
    spelled = {index: token for token, index in vocabulary.get_vocab().items()}
    tokens = [spelled.get(index, f"<unused{index}>") for index in range(VOCABULARY)]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if index == 0 else 1 for index in range(VOCABULARY)])
    writer.add_token_merges(_merges(vocabulary))
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    names |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    for layer in range(config.num_hidden_layers):
        for theirs_name, name in names.items():
            value = weights[f"model.layers.{layer}.{theirs_name}.weight"]
            heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name)
            if heads:  # llama.cpp keeps rotary pairs as neighbours
                value = value.reshape(heads, 2, value.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(value.shape)
            writer.add_tensor(f"blk.{layer}.{name}.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return theirs


def _merges(vocabulary: Any) -> list[str]:
    import json

    merges = json.loads(vocabulary.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
