"""Fetches, converts where needed, and describes a released model: from the Hub, a folder or a GGUF file."""

from __future__ import annotations

import re
from pathlib import Path

from halflife import digests
from halflife.errors import UserError
from halflife.extras import require
from halflife.models.released import Released
from halflife.models.shapes import CONFIG, read_config, read_shape
from halflife.models.weights import weight_files

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""At least one of these is needed for a tokenizer."""
_TOKENIZER_FILES = (*TOKENIZERS, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?|[\w-][\w.-]*(@[\w./-]+)?")


def prepare_model(source: str, results: Path) -> Released:
    """The model that `source` names: `name` or `name@revision` on the Hub, a folder, or a .gguf file.

    A name is downloaded. Weights in other formats than safetensors are converted once, below `results`/models.
    Raises UserError, in one line, for anything missing or unsupported.
    """
    require("transformers", f"the released model {source!r}")
    path = Path(source).expanduser()
    cache = results / "models" / "digests.json"
    if path.suffix == ".gguf":
        return _from_file(source, path, results, cache)
    if path.is_dir():
        files = _model_files(path)
        # what can be refused is refused before the digests, which read all weights
        shape = read_shape(path) if _safe(path) else None
        digest = digests.of_text(["folder", digests.of_files(files, cache, path)])
        name = path.resolve().name
    elif _NAME.fullmatch(source) and not path.exists():
        path, commit = _from_hub(source)
        _model_files(path)
        shape = read_shape(path) if _safe(path) else None
        digest, name = digests.of_text(["hub", source.partition("@")[0], commit]), source.rpartition("/")[2]
    else:
        raise UserError(
            f"model {source!r} given: expected a folder with config.json, weights and a tokenizer, a .gguf file, or a "
            "name on the Hugging Face Hub such as EleutherAI/pythia-70m or EleutherAI/pythia-70m@step3000"
        )
    folder = path
    if shape is None:
        folder = _converted(path, None, digest, results)
        shape = read_shape(folder)
    return Released(digest=digest, name=name, source=source, folder=str(folder.resolve()), shape=shape)


def _model_files(folder: Path) -> list[Path]:
    """Configuration, weights and tokenizer, which identify a model folder.

    Raises UserError when one of the three is missing, or the configuration is of something else.
    """
    if not (folder / CONFIG).exists():
        raise UserError(f"model folder {folder} has no {CONFIG}: expected a Hugging Face model folder, or a .gguf file")
    weights = weight_files(folder)
    if not any((folder / name).exists() for name in TOKENIZERS):
        raise UserError(f"model folder {folder} has no tokenizer: expected one of {', '.join(TOKENIZERS)} in it")
    read_config(folder)
    others = [folder / name for name in _TOKENIZER_FILES if (folder / name).exists()]
    return [folder / CONFIG, *weights, *others]


def _safe(folder: Path) -> bool:
    """Whether the weights are safetensors."""
    return weight_files(folder)[0].suffix == ".safetensors"


def _from_file(source: str, path: Path, results: Path, cache: Path) -> Released:
    if not path.is_file():
        raise UserError(f"model {source!r} given: no such file")
    require("gguf", f"the GGUF file {source!r}")
    digest = digests.of_text(["gguf", list(digests.of_files([path], cache, path.parent).values())])
    folder = _converted(path.parent, path.name, digest, results)
    shape = read_shape(folder)
    return Released(digest=digest, name=path.stem, source=source, folder=str(folder.resolve()), shape=shape)


def _converted(folder: Path, gguf: str | None, digest: str, results: Path) -> Path:
    """A folder with the weights as safetensors, made once; this imports torch."""
    target = results / "models" / digest
    if not (target / CONFIG).exists():
        from halflife.models.hugging_face import convert

        convert(folder, gguf, target)
    return target


def _from_hub(source: str) -> tuple[Path, str]:
    """The local snapshot of a name, downloaded if needed, and its commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    name, _, revision = source.partition("@")
    patterns = ["*.json", "*.safetensors", "*.txt", "tokenizer.model", "*.bin"]
    ignored = ["onnx/*", "*/*", "training_args.bin", "*consolidated*"]
    try:
        path = snapshot_download(name, revision=revision or None, allow_patterns=patterns, ignore_patterns=ignored)
    except RepositoryNotFoundError:
        raise UserError(f"model {source!r} given: no such model on the Hub, or it needs a login") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(
            f"model {source!r} given: no such folder, and the Hub cannot be reached ({line[:120]}); "
            "download it on a machine with a network and give its folder"
        ) from None
    return Path(path), Path(path).name
