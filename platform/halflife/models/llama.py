"""Exports our decoder as a Hugging Face Llama with equal logits.

Rotary pairs are adjacent elements here and half a head apart there, so the rows of query and key are permuted. muP's
division before the head goes into the gain of the last norm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halflife.models.decoder import NORM_EPSILON, ROTARY_BASE, Decoder


def llama(model: Decoder, context: int, eos: int) -> Any:
    """The decoder as transformers' LlamaForCausalLM. `context`: the longest training sequence; `eos`: the
    end-of-text token."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.initialization import no_init_weights

    rung = model.architecture
    config = LlamaConfig(
        vocab_size=model.vocabulary,
        hidden_size=rung.width,
        intermediate_size=rung.feedforward,
        num_hidden_layers=rung.layers,
        num_attention_heads=rung.heads,
        rms_norm_eps=NORM_EPSILON,
        rope_parameters={"rope_type": "default", "rope_theta": ROTARY_BASE},
        max_position_embeddings=context,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=eos,
        dtype="float32",
    )
    with no_init_weights():
        theirs = LlamaForCausalLM(config)
    theirs.tie_weights()
    weights = llama_weights(model)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(weights[name])
    return theirs.eval()


def llama_weights(model: Decoder) -> dict[str, Tensor]:
    """The decoder's weights by Llama's names."""
    rung = model.architecture

    def halves(weight: Tensor) -> Tensor:
        return weight.view(rung.heads, rung.head_width // 2, 2, -1).transpose(1, 2).reshape(rung.width, -1)

    blocks: Any = model.blocks
    weights: dict[str, Tensor] = {
        "model.embed_tokens.weight": model.embed.weight,
        "model.norm.weight": model.norm.weight / rung.multiplier,
        "lm_head.weight": model.head.weight,
    }
    for number, block in enumerate(blocks):
        q, k, v = block.qkv.weight.chunk(3)
        gate, up = block.gate_up.weight.chunk(2)
        at = f"model.layers.{number}."
        weights |= {
            at + "self_attn.q_proj.weight": halves(q),
            at + "self_attn.k_proj.weight": halves(k),
            at + "self_attn.v_proj.weight": v,
            at + "self_attn.o_proj.weight": block.out.weight,
            at + "mlp.gate_proj.weight": gate,
            at + "mlp.up_proj.weight": up,
            at + "mlp.down_proj.weight": block.down.weight,
            at + "input_layernorm.weight": block.attention_norm.weight,
            at + "post_attention_layernorm.weight": block.mlp_norm.weight,
        }
    return weights
