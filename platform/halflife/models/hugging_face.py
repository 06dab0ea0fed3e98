"""Released models: transformers' own modules behind the `Model` protocol."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from halflife.errors import UserError
from halflife.models.hook_points import Flow, HookPoint, find_parts
from halflife.models.hooks import layers, residuals
from halflife.models.kv_cache import KVCache, extend_cache
from halflife.models.model import Kind
from halflife.models.released import Released
from halflife.models.sites import Site

CHECKED_TOKENS = 8


class HuggingFaceModel(nn.Module):
    """A causal language model of transformers, split into the parts of `models.model.Model`; its logits equal those of
    its own forward pass."""

    def __init__(self, model: Any, architecture: Released) -> None:
        super().__init__()
        self.model, self.architecture = model, architecture
        self.vocabulary: int = model.get_input_embeddings().weight.shape[0]
        self._blocks = layers(model)
        self.depth, self.flow = len(self._blocks), Flow()
        self._parts: list[dict[str, nn.Module]] = []
        self._multiply, self._divide = _logit_factors(model)
        self._continues = False

    @property
    def embed(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    def kind(self, name: str) -> Kind:
        parameter = self.get_parameter(name)
        if isinstance(self.get_submodule(name.rpartition(".")[0]), nn.Embedding) or ".lora_B." in name:
            return "embed"  # tokens or positions; LoRA's B has few inputs at every width, as an embedding has
        if parameter is self.model.get_output_embeddings().weight:
            return "head"
        return "gain" if parameter.ndim < 2 else "hidden"

    def hook_point(self, site: Site) -> HookPoint:
        if site.layer == 0:
            return HookPoint(self._blocks[0], before=True)
        if site.part == "residual":
            return HookPoint(self._blocks[site.layer - 1])
        if not self._parts:
            self._parts = self._find_parts()
        found = self._parts[site.layer - 1]
        if site.part not in found:
            raise UserError(
                f"the part {site.part!r} of layer {site.layer} given: a block of the family "
                f"{self.architecture.shape.family} is not a sum of its stream, attention and mlp; expected the part "
                "'residual'"
            )
        return HookPoint(found[site.part])

    def _find_parts(self) -> list[dict[str, nn.Module]]:
        training = self.training
        tokens = torch.arange(CHECKED_TOKENS, device=self.embed.weight.device)[None] % self.vocabulary
        try:
            self.eval()
            return find_parts(self._blocks, lambda: self.hidden(self.embed(tokens)))
        finally:
            self.train(training)

    def hidden(self, x: Tensor) -> Tensor:
        self.flow = Flow(x.shape[1])
        return self.model.base_model(inputs_embeds=x, use_cache=False).last_hidden_state

    def hidden_at(self, x: Tensor, columns: Tensor, past: KVCache | None = None) -> Tensor:
        hidden = self.hidden(x) if past is None else self._run(x, past.repeated(len(x) // past.texts))[0]
        return hidden.take_along_dim(columns[..., None], 1)

    def prefill(self, x: Tensor, lengths: Tensor, past: KVCache | None = None) -> tuple[Tensor, KVCache]:
        self._check_continuation()
        hidden, cache = self._run(x, past)
        keys, values = (
            tuple(getattr(layer, name)[:, :, -x.shape[1] :] for layer in cache.layers) for name in ("keys", "values")
        )
        return hidden, extend_cache(past, keys, values, lengths)

    def _run(self, x: Tensor, past: KVCache | None) -> tuple[Tensor, Any]:
        """The residual stream and transformers' cache. Padding lies before each text, hidden by a mask: many families
        measure distances in columns, so nothing may lie between a text and its continuation."""
        from transformers import DynamicCache

        self.flow = Flow(x.shape[1], None if past is None else past.lengths)
        cache, kwargs = DynamicCache(), {}
        if past is not None:
            past = past.right_aligned()
            for layer, (keys, values) in enumerate(zip(past.keys, past.values, strict=True)):
                cache.update(keys, values, layer)
            new = past.valid.new_ones(x.shape[:2])
            kwargs["attention_mask"] = torch.cat([past.valid, new], dim=1).long()
            kwargs["position_ids"] = past.lengths[:, None] + torch.arange(x.shape[1], device=x.device)
        result = self.model.base_model(inputs_embeds=x, past_key_values=cache, use_cache=True, **kwargs)
        return result.last_hidden_state, cache

    def _check_continuation(self) -> None:
        """Raises UserError, the first time, when the family does not continue padded texts as it reads them whole: it
        keeps a state instead of keys and values, or places a token by its column. Not while hooks change what it
        computes."""
        if self._continues or any(module._forward_hooks or module._forward_pre_hooks for module in self.modules()):
            return
        self._continues, training = True, self.training
        try:
            with torch.no_grad():
                error = self.eval()._continuation_error()
        except (AttributeError, IndexError, ValueError, TypeError, AssertionError) as problem:
            error = (str(problem) or type(problem).__name__).splitlines()[0][:80]
        finally:
            self.train(training)
        weight = self.embed.weight
        exact = weight.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(weight.device.type)
        if isinstance(error, str) or error > (1e-3 if exact else 0.1):
            self._continues = False
            raise UserError(
                f"{self.architecture.name}: the family {self.architecture.shape.family} does not continue a text from "
                f"its keys and values as it reads it whole ({error}), which soft prompts and generation need; expected "
                "another model"
            )

    def _continuation_error(self) -> float:
        """Of two texts of different lengths, the relative error of the hidden states that follow them."""
        tokens = torch.arange(CHECKED_TOKENS, device=self.embed.weight.device) % self.vocabulary
        whole, lengths = self.hidden(self.embed(tokens[None]))[0], [CHECKED_TOKENS - 2, CHECKED_TOKENS // 2]
        texts = self.embed(tokens[: lengths[0]].expand(2, -1))
        _, past = self.prefill(texts, torch.tensor(lengths, device=tokens.device))
        found, _ = self._run(self.embed(torch.stack([tokens[length : length + 2] for length in lengths])), past)
        expected = torch.stack([whole[length : length + 2] for length in lengths])
        return float((found - expected).norm() / expected.norm())

    def residuals(self, x: Tensor) -> list[Tensor]:
        return residuals(self, x)

    def logits(self, hidden: Tensor) -> Tensor:
        logits = self.model.get_output_embeddings()(hidden)
        if self._multiply != 1:
            logits = logits * self._multiply
        if self._divide != 1:
            logits = logits / self._divide
        cap = getattr(self.model.config, "final_logit_softcapping", None)  # Gemma's
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits(self.hidden(self.embed(tokens)))

    def configuration(self) -> dict[str, Any]:
        """config.json as data: together with the weights, it defines the model."""
        return json.loads(self.model.config.to_json_string(use_diff=False))


def load(released: Released, dropout: float = 0.0) -> HuggingFaceModel:
    """The released weights in float32. Raises UserError when transformers cannot read them."""
    from transformers import AutoModelForCausalLM

    with _quietly(f"model {released.source!r}"):
        config = _configured(_read_config(Path(released.folder)), released, dropout)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            released.folder, config=config, dtype=torch.float32, output_loading_info=True
        )
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        raise UserError(f"model {released.source!r} given: its weights lack {missing[0]}, which would be random")
    trained, counted = sum(map(torch.numel, model.parameters())), released.parameters + released.shape.embeddings
    if trained != counted:
        raise UserError(
            f"model {released.source!r} given: its weights were counted as {counted:,} parameters, and transformers "
            f"trains {trained:,} of the family {released.shape.family}"
        )
    return _checked(HuggingFaceModel(model, released))


def build(released: Released, configuration: dict[str, Any], dropout: float = 0.0) -> HuggingFaceModel:
    """The same model without its weights, which the caller loads from a checkpoint."""
    field = {released.shape.dropout: dropout} if released.shape.dropout else {}
    return HuggingFaceModel(remade({**configuration, **field}), released)


def remade(configuration: dict[str, Any]) -> Any:
    """transformers' module of a configuration, with uninitialised weights."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with _quietly("the checkpoint's configuration"):
        rest = {name: value for name, value in configuration.items() if name != "model_type"}
        config = AutoConfig.for_model(configuration["model_type"], **rest)
        with no_init_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.tie_weights()
    return model


def _read_config(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


def _configured(config: Any, released: Released, dropout: float) -> Any:
    """`config` with all dropout off except `dropout` on the residual stream."""
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        for name, value in list(vars(part).items()) if part is not None else ():
            if value and name.endswith(("dropout", "pdrop", "dropout_p", "layerdrop")):
                setattr(part, name, type(value)(0))
    if dropout and released.shape.dropout:  # Train refuses dropout where the family has none
        setattr(config, released.shape.dropout, dropout)
    return config


def _checked(model: HuggingFaceModel) -> HuggingFaceModel:
    """Raises UserError when the parts do not reproduce the model's own logits."""
    tokens = torch.arange(CHECKED_TOKENS)[None] % model.vocabulary
    model.eval()
    with torch.no_grad():
        theirs = model.model(tokens, use_cache=False).logits
        try:
            equal = torch.allclose(model(tokens), theirs, rtol=1e-4, atol=1e-4)
        except (AttributeError, TypeError):  # its parts are not where those of other families are
            equal = False
    model.train()
    if not equal:
        raise UserError(
            f"model {model.architecture.source!r} given: the family {model.architecture.shape.family} does not compute "
            "its logits by a linear head on the last hidden state, the only way that is supported"
        )
    return model


def _logit_factors(model: Any) -> tuple[float, float]:
    """What the family multiplies its logits by, and what it divides them by."""
    scaling = getattr(model.config, "logits_scaling", 1.0)
    if model.config.model_type == "hyperclovax":  # multiplies by what Granite divides by
        return scaling, 1.0
    # Cohere's model has a factor; the configuration of MPT names one, which its model does not use
    return getattr(model, "logit_scale", 1.0), scaling


def convert(folder: Path, gguf: str | None, target: Path) -> None:
    """Convert a GGUF file or pickled weights to a folder with float32 safetensors, configuration and tokenizer.

    Raises UserError when transformers does not support the family or finds no tokenizer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kwargs = {"gguf_file": gguf} if gguf else {}
    source = folder / gguf if gguf else folder
    temporary = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        with _quietly(f"model '{source}'"), contextlib.redirect_stderr(io.StringIO()):  # bars that ignore the switch
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **kwargs)
            if gguf:  # the weights are dequantised by now
                model.hf_quantizer = None
                del model.config.quantization_config
            model.save_pretrained(temporary)
            AutoTokenizer.from_pretrained(folder, **kwargs).save_pretrained(temporary)
        try:
            temporary.rename(target)
        except OSError:
            if not target.exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _quietly(what: str) -> Iterator[None]:
    """Silences transformers' progress bars and warnings, and turns its exceptions into a UserError of one line."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.CRITICAL)
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, NotImplementedError, TypeError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{what} cannot be read by transformers: {line[:200]}") from error
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
