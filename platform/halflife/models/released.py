"""Released models: any Hugging Face causal language model, described without torch.

A name on the Hub (`EleutherAI/pythia-70m@step3000`), a local folder or a GGUF file becomes a `Released`: a handle
with an identity and a shape. The identity of a name is its commit; that of a folder or file is the digest of its
configuration, weights and tokenizer. Its path is never hashed.
"""

from __future__ import annotations

from dataclasses import dataclass

from halflife.fields import recorded


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Read from config.json and the headers of the weights (`models.shapes`)."""

    family: str
    """Hugging Face's model_type: llama, gpt_neox, ..."""
    depth: int
    width: int
    heads: int
    feedforward: int
    vocabulary: int
    """Number of rows of the embedding; a tokenizer may use fewer."""
    context: int | None
    """Longest sequence; None if the configuration does not say."""
    parameters: int
    """Non-embedding parameters, those that the architecture trains."""
    embeddings: int
    """Parameters of the embedding and an untied head."""
    matrices: tuple[str, ...]
    """Last parts of the names of the layers' matrices, such as q_proj: possible LoRA targets."""
    dropout: str | None
    """The configuration's name for residual dropout, if the family has it."""


@dataclass(frozen=True, kw_only=True)
class Released:
    """A released model as a starting point. Learning rates are not scaled: every muP multiplier is 1, at any size."""

    digest: str
    name: str = recorded()
    """Its name in reports."""
    source: str = recorded()
    """As given by the user: a name, a folder, a file."""
    folder: str = recorded()
    """Where its configuration and weights are on this machine."""
    shape: Shape = recorded()

    multiplier = 1.0
    """muP's. The width for which the rates of a released model were tuned is unknown."""

    @property
    def size(self) -> str:
        return self.name

    @property
    def identity(self) -> str:
        """Stored in checkpoints and compared when one is loaded."""
        return self.digest

    @property
    def parameters(self) -> int:
        """Non-embedding parameters, those that the architecture trains."""
        return self.shape.parameters

    @property
    def layers(self) -> int:
        return self.shape.depth

    @property
    def matrices(self) -> tuple[str, ...]:
        return self.shape.matrices

    @property
    def width(self) -> int:
        return self.shape.width

    def embedding_parameters(self, vocabulary: int) -> int:
        """Parameters of the embedding and an untied head; `vocabulary`, the tokenizer's, is not used."""
        return self.shape.embeddings

    def flops_per_token(self, sequence: int, vocabulary: int = 0) -> float:
        """Training FLOPs per token: 6 per parameter (including the head's if a vocabulary is given), plus the products
        of causal attention."""
        shape = self.shape
        head = shape.vocabulary * shape.width if vocabulary else 0
        return 6 * (shape.parameters + head) + 6 * shape.depth * shape.width * sequence

    def activation_bytes(self, vocabulary: int) -> float:
        """Estimated fp32 bytes per token: activations kept for the backward pass, logits and their gradient.
        Transformers' modules keep more than our decoder."""
        shape = self.shape
        return 4.0 * (shape.depth * (24 * shape.width + 6 * shape.feedforward) + 3 * shape.vocabulary)

    def describe(self) -> str:
        shape = self.shape
        return (
            f"{self.name}: {shape.family}, {shape.depth} layers x width {shape.width}, {shape.heads} heads, "
            f"feed-forward {shape.feedforward}, vocabulary {shape.vocabulary:,}, {shape.parameters:,} non-embedding "
            "parameters, learning rates without muP"
        )
