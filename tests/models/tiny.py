"""Tiny released models as folders: GPT-NeoX, Llama, Qwen2, GPT-2, and a tokenizer trained on a few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VOCABULARY = 320
FAMILIES = ("gpt_neox", "llama", "qwen2", "gpt2")
ENDS = "<|endoftext|>"
TEXT = ["the cat sat on the mat\n", "def name(value):\n    return value + 1\n", "café naïve 😀\n"]


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

    model(family, seed, **changes).save_pretrained(path)
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
