"""Nothing that is read from the store, from artifacts or from a user's files is ever executed."""

from __future__ import annotations

import ast
import json
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest

from halflife.data.corpus import Corpus, corpus_folder, prepare_corpus, texts
from halflife.data.tokenizers import Bytes
from halflife.data.tokens import token_array
from halflife.store import files
from halflife.store.run import run_stage
from halflife.store.store import Corrupt, Store, read_points
from tests.data.samples import sentences
from tests.store.fakes import Walk, computed

ROOT = Path(__file__).parents[2]
FORBIDDEN_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "os.popen", "os.system", "torch.load", "yaml.load", "yaml.unsafe_load"}
FORBIDDEN_METHODS = {"read_pickle"}
FORBIDDEN_ARGUMENTS = {"allow_pickle", "shell", "trust_remote_code"}


TRANSPORT = "platform/halflife/sweep/packing.py"
"""Unpacks what Ray carries from this sweep's driver to its workers, as Ray does itself; nothing that was stored."""

PIPE = "analysis/report/second_process.py"
"""Between a report and the process that it started, over pipes of their own; nothing that was stored."""


def sources() -> list[Path]:
    return [path for room in ("platform", "analysis", "studies") for path in sorted((ROOT / room).rglob("*.py"))]


def unpickles(module: str) -> bool:
    return bool(FORBIDDEN_MODULES & set(module.split(".")))


def offences(text: str) -> list[str]:
    """Constructs of a module that would unpickle data or execute text."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if unpickles(alias.name)]
        elif isinstance(node, ast.ImportFrom) and unpickles(node.module or ""):
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in FORBIDDEN_CALLS or name.rpartition(".")[2] in FORBIDDEN_METHODS:
                found.append(name)
            for argument in node.keywords:
                if argument.arg in FORBIDDEN_ARGUMENTS and ast.unparse(argument.value) != "False":
                    found.append(f"{name}({argument.arg}=...)")
    return found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "from ray.cloudpickle import loads",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
        "eval(text)",
        "frame.read_pickle(path)",
    ],
)
def test_an_offence_is_noticed(text: str) -> None:
    assert offences(text)


def test_no_module_unpickles_or_runs_text_as_code() -> None:
    found = {str(path.relative_to(ROOT)): what for path in sources() if (what := offences(path.read_text()))}
    assert found == {TRANSPORT: ["ray.cloudpickle"], PIPE: ["pickle"]}


class Bomb:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.fixture
def bomb(tmp_path: Path) -> bytes:
    data = pickle.dumps(Bomb(tmp_path / "went off"))
    pickle.loads(data)
    assert (tmp_path / "went off").exists()
    (tmp_path / "went off").unlink()
    return data


@pytest.mark.parametrize("name", ["DONE", "lease-1.json", "metrics.parquet", "stage.json", "final/state.json"])
def test_a_pickle_in_a_completed_stage_is_never_unpickled(tmp_path: Path, bomb: bytes, name: str) -> None:
    stage, store = Walk(name="a"), Store(tmp_path / "results")
    child = Walk(name="b", starts=(stage,))
    outcome = run_stage(stage, store)
    folder = store.folder(stage)
    path = folder / name if name in ("DONE", "lease-1.json") else folder / "attempts" / outcome.attempt / name
    path.write_bytes(bomb)
    store = Store(store.root)
    if "/" in name or name in ("metrics.parquet", "stage.json"):
        with pytest.warns(UserWarning, match="corrupt"):
            run_stage(child, store)
    else:
        run_stage(child, store)
    assert not (tmp_path / "went off").exists()
    assert store.outcome(child)


@pytest.mark.parametrize("name", ["resume.json", "resume-3/state.json", "resume-3/metrics.parquet"])
def test_a_pickle_in_a_checkpoint_is_never_unpickled(tmp_path: Path, bomb: bytes, name: str) -> None:
    broken, store = Walk(name="a", breaks_at=3), Store(tmp_path / "results")
    with pytest.raises(RuntimeError):
        run_stage(broken, store)
    next(store.folder(broken).glob(f"attempts/*/{name}")).write_bytes(bomb)
    stage = Walk(name="a", breaks_at=None)
    if name == "resume.json":
        run_stage(stage, store)
    else:
        with pytest.warns(UserWarning, match="is skipped"):
            run_stage(stage, store)
    assert not (tmp_path / "went off").exists()
    assert computed(store.root)[3:] == [f"a {step}" for step in range(4)]


def test_points_that_are_a_pickle_are_refused(tmp_path: Path, bomb: bytes) -> None:
    files.write(tmp_path / "metrics.parquet", bomb)
    with pytest.raises(Corrupt, match="cannot be read"):
        read_points(tmp_path)
    assert not (tmp_path / "went off").exists()


def test_tokens_that_hold_objects_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "text.jsonl"
    source.write_text("".join(json.dumps({"text": sentences(number, 20)}) + "\n" for number in range(60)))
    corpus = prepare_corpus(str(source), tmp_path / "results")
    tokens = corpus_folder(tmp_path / "results", corpus) / "tokens"
    tokens.mkdir()
    made = token_array(tmp_path / "results", corpus, "validation", Bytes())
    (name,) = {path.name for path in tokens.iterdir()}
    assert len(made)
    hostile = np.array([Bomb(tmp_path / "went off")], dtype=object)
    np.save(tokens / name.replace("validation", "train"), hostile, allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects in dtype"):
        token_array(tmp_path / "results", corpus, "train", Bytes())
    assert not (tmp_path / "went off").exists()


NAMES = ["$(touch injected).jsonl", "a;touch injected;.jsonl", "`touch injected`.jsonl", "<script>alert(1)<.jsonl"]


@pytest.mark.parametrize("name", NAMES)
def test_a_corpus_file_of_any_name_is_only_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / name).write_text("".join(json.dumps({"text": sentences(number, 20)}) + "\n" for number in range(60)))
    corpus = prepare_corpus(str(folder / name), tmp_path / "results")
    assert texts(tmp_path / "results", corpus, "train")
    assert not list(tmp_path.rglob("injected"))
    assert not list(ROOT.glob("injected"))
    made = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.parts[0] in ("given", "results") for path in made)


@pytest.mark.parametrize("digest", ["../../outside", "/outside"])
def test_documents_of_a_corpus_with_a_path_for_a_digest_are_not_written_outside(tmp_path: Path, digest: str) -> None:
    """Digests are computed, never given; a description with an arbitrary one reads nothing but corpora."""
    from halflife.errors import UserError

    with pytest.raises(UserError, match="is not below"):
        texts(tmp_path / "results", Corpus(digest=digest), "train")


def test_a_record_with_shell_characters_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["study.py", "$(touch injected)", "; touch injected"])
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "results")
    run_stage(Walk(name="$(touch injected)"), store)
    record = next((tmp_path / "results").glob("stages/*/attempts/*/stage.json"))
    said = json.loads(record.read_text())["command"]
    subprocess.run(["bash", "-n", "-c", said], check=True, capture_output=True)
    assert said == "study.py '$(touch injected)' '; touch injected'"  # safe to paste
    assert not list(tmp_path.rglob("injected"))
