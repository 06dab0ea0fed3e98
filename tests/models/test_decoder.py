from __future__ import annotations

import pytest
import torch

from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung


def decoder(size="20k", vocabulary=50, dropout=0.0, seed=0, head=0.0):
    """`head`: the standard deviation of the head's weights, which start at 0."""
    model = Decoder(Rung(size=size), vocabulary, dropout)
    model.initialise(torch.Generator().manual_seed(seed))
    torch.nn.init.normal_(model.head.weight, std=head)
    return model


def test_a_fresh_model_predicts_the_uniform_distribution():
    logits = decoder()(torch.randint(0, 50, (2, 9)))
    assert torch.equal(logits, torch.zeros(2, 9, 50))


def test_a_position_sees_what_came_before_and_nothing_after():
    model = decoder(head=0.2)
    tokens = torch.randint(0, 50, (1, 12))
    changed = tokens.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 50
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_logits_of_chosen_positions_equal_those_of_the_whole_pass():
    model = decoder(head=0.2)
    tokens = torch.randint(0, 50, (3, 10))
    hidden = model.hidden(model.embed(tokens))
    mask = torch.rand(3, 10) < 0.3
    torch.testing.assert_close(model.logits(hidden[mask]), model(tokens)[mask], rtol=1e-4, atol=1e-5)


def test_initialisation_depends_on_the_seed_alone():
    one, same, other = decoder(), decoder(), decoder(seed=1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.embed.weight, other.embed.weight)


def test_dropout_acts_in_training_and_not_in_evaluation():
    model = decoder(head=0.2, dropout=0.5)
    tokens = torch.randint(0, 50, (2, 8))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_every_parameter_has_a_kind():
    model = decoder()
    kinds = {name: model.kind(name) for name, _ in model.named_parameters()}
    assert set(kinds.values()) == {"embed", "hidden", "gain", "head"}
    for name, parameter in model.named_parameters():
        assert (kinds[name] == "gain") == (parameter.ndim == 1)


def llama(model):
    """The same weights in Hugging Face's Llama: rotary pairs half a head apart, separate matrices."""
    from transformers import LlamaConfig, LlamaForCausalLM

    rung = model.architecture
    config = LlamaConfig(
        vocab_size=model.vocabulary,
        hidden_size=rung.width,
        intermediate_size=rung.feedforward,
        num_hidden_layers=rung.layers,
        num_attention_heads=rung.heads,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    )
    theirs = LlamaForCausalLM(config).eval()

    def halves(weight):
        return weight.view(rung.heads, rung.head_width // 2, 2, -1).transpose(1, 2).reshape(rung.width, -1)

    state = {"model.embed_tokens.weight": model.embed.weight, "model.norm.weight": model.norm.weight}
    state["lm_head.weight"] = model.head.weight / rung.multiplier
    for number, block in enumerate(model.blocks):
        q, k, v = block.qkv.weight.chunk(3)
        gate, up = block.gate_up.weight.chunk(2)
        at = f"model.layers.{number}."
        state |= {
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
    theirs.load_state_dict(state)
    return theirs


@pytest.mark.parametrize("size", ["30k", "200k"])
def test_logits_equal_those_of_hugging_faces_llama(size):
    model = decoder(size, head=0.2)
    tokens = torch.randint(0, 50, (2, 24))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), llama(model)(tokens).logits, rtol=1e-3, atol=1e-4)


def test_residuals_begin_with_the_embedding_and_end_with_the_input_of_the_head():
    model = decoder(head=0.2)
    embedded = model.embed(torch.randint(0, 50, (2, 9)))
    found = model.residuals(embedded)
    assert len(found) == model.architecture.layers + 1
    assert torch.equal(found[0], embedded)
    assert torch.equal(found[-1], model.hidden(embedded))
    assert all(tap.shape == embedded.shape for tap in found)
