"""A user's task: what a class, a table and a chat give, what identifies it, and what is refused in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halflife.data.own_tasks import check_task, prepare_task
from halflife.data.tokenizers import Bytes
from halflife.errors import UserError
from halflife.tasks.stored import Stored, keep
from tests.models import tiny

ROWS = [{"prompt": f"{n} + 1 =", "answer": str(n + 1)} for n in range(20)]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    def written(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return written


def lines(rows: list[Any]) -> str:
    return "\n".join(map(json.dumps, rows))


def texts(task: Stored, part: Any) -> set[tuple[str, str]]:
    return {(example.prompt, example.answer) for example in task.examples(part)}


def test_a_table_in_any_format_with_columns_of_any_name_is_the_same_task(tmp_path: Path, write: Callable) -> None:
    frame = pl.DataFrame(ROWS)
    frame.rename({"prompt": "q", "answer": "a"}).write_parquet(tmp_path / "t.parquet")
    specs = [
        write("t.csv", frame.write_csv()),
        write("t.jsonl", lines([{**row, "answer": int(row["answer"])} for row in ROWS])),
        f"{tmp_path / 't.parquet'}:prompt=q,answer=a",
    ]
    tasks = [prepare_task(spec, tmp_path) for spec in specs]
    assert len({(task.digest, task.name) for task in tasks}) == 1
    assert texts(tasks[0], "memorised") | texts(tasks[0], "held-out") == {
        (row["prompt"], f" {row['answer']}\n") for row in ROWS
    }


def test_items_of_a_function_a_class_and_a_list_are_theirs_for_each_seed(tmp_path: Path, write: Callable) -> None:
    file = write("own.py", "import random\ndef drawn(seed):\n    r = random.Random(seed)\n"
        "    for n in range(30):\n        yield f'{n}:', str(r.random())\n"
        "class Same:\n    chance = 0.25\n    def items(self):\n        return [(f'{n}:', 'x') for n in range(30)]\n"
        "listed = [(f'{n}:', str(n), 'test' if n < 5 else 'train') for n in range(30)]\n")  # fmt: skip
    one, other, again = (prepare_task(f"{file}:drawn", tmp_path, seed=seed) for seed in (0, 1, 0))
    assert one == again != other
    assert prepare_task(f"{file}:Same", tmp_path).chance == 0.25
    assert texts(prepare_task(f"{file}:listed", tmp_path), "held-out") == {(f"{n}:", f"{n}\n") for n in range(5)}


def test_a_synthetic_task_of_halflife_keeps_its_items_and_what_it_holds_out(tmp_path: Path, write: Callable) -> None:
    from halflife.tasks.sequences import Sorting

    file = write("theirs.py", "from halflife.tasks.sequences import Sorting\n")
    task, theirs = prepare_task(f"{file}:Sorting", tmp_path, seed=3), Sorting(seed=3)
    for part in ("memorised", "held-out"):
        assert texts(task, part) == {(each.prompt, each.answer) for each in theirs.examples(part)}


def test_a_task_is_found_by_its_content_wherever_its_file_was(tmp_path: Path, write: Callable) -> None:
    task = prepare_task(write("t.jsonl", lines(ROWS)), tmp_path)
    moved = prepare_task(write("t.json", json.dumps(ROWS[::-1])), tmp_path)
    edited = prepare_task(write("t.jsonl", lines([*ROWS[1:], {"prompt": "0 + 1 =", "answer": "2"}])), tmp_path)
    assert task == moved
    assert task.digest != edited.digest
    assert (tmp_path / "tasks" / f"{task.digest}.json").exists()


@settings(max_examples=20, deadline=None)
@given(prompts=st.sets(st.text("abc", min_size=1, max_size=6), min_size=6, max_size=40), seed=st.integers(0, 9))
def test_a_row_that_is_added_moves_at_most_one_other_across_the_split(
    tmp_path_factory: pytest.TempPathFactory, prompts: set[str], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("rows")

    def held_out(names: set[str]) -> set[str]:
        (folder / "t.jsonl").write_text(lines([{"prompt": name, "answer": "x"} for name in sorted(names)]))
        task = prepare_task(str(folder / "t.jsonl"), folder, seed=seed, held_out=0.3)
        found, learned = ({each.prompt for each in task.examples(part)} for part in ("held-out", "memorised"))
        assert found | learned == names
        assert not found & learned
        assert len(found) == max(1, round(0.3 * len(names)))
        return found

    assert len(held_out(prompts | {"new"}) - {"new"} - held_out(prompts)) <= 1
    assert len(held_out(prompts) - held_out(prompts | {"new"})) <= 1


def test_chats_are_lines_of_roles_without_a_template(tmp_path: Path, write: Callable) -> None:
    turns = [("user", "2 + 2?"), ("assistant", "4"), ("user", "thanks")]
    chat = {"messages": [{"role": role, "content": content} for role, content in turns]}
    old = {"conversations": [{"from": "human", "value": "3 + 3?"}, {"from": "gpt", "value": "6"}]}
    task = prepare_task(write("c.jsonl", lines([chat])), tmp_path, held_out=0)
    assert texts(task, "memorised") == {("user: 2 + 2?\nassistant:", " 4\n")}
    assert texts(prepare_task(write("o.jsonl", lines([old])), tmp_path, held_out=0), "memorised") == {
        ("human: 3 + 3?\ngpt:", " 6\n")
    }


TEMPLATE = (
    "{% for m in messages %}<|endoftext|>{{ m.role }}:{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|endoftext|>assistant:{% else %}<|endoftext|>\n{% endif %}"
)


@pytest.mark.slow  # imports transformers
def test_a_chat_template_writes_special_tokens_which_are_tokens_only_there(tmp_path: Path, write: Callable) -> None:
    from halflife.data.codecs import load, of_task
    from halflife.data.pretrained import chat_template, prepare_tokenizer

    folder = tiny.folder(tmp_path / "model", "llama")
    assert chat_template(folder) is None
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    tokenizer = prepare_tokenizer(folder, tmp_path)
    chat = {"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]}
    task = prepare_task(write("c.jsonl", lines([chat])), tmp_path, held_out=0, template=chat_template(folder))
    (example,) = task.examples("memorised")
    assert (example.prompt, example.answer) == ("<|endoftext|>user:the cat<|endoftext|>assistant:", "sat<|endoftext|>")
    codec = load(tokenizer, tmp_path)
    tokens = of_task(task, codec).encode(example.answer)
    assert tokens[-1] == codec.eos
    assert codec.eos not in codec.encode(example.answer)
    check_task(task, tokenizer, tmp_path, 64)
    with pytest.raises(UserError, match="use the released model whose template it is"):
        check_task(task, Bytes(), tmp_path, 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"q": "a", "answer": "b"}]', r"columns q, answer: no prompt; expected prompt and answer, or name them"),
        ('[{"prompt": "a", "answer": ""}]', r"item 1: the answer is empty"),
        ('[{"prompt": "a", "answer": ["b"]}]', r"item 1: expected a text or a number in the column 'answer'"),
        ('[{"prompt": "a", "answer": "b"}, {"prompt": "a", "answer": "c"}]', "the prompt 'a' has two answers"),
        ('[{"prompt": "a", "answer": "b", "split": "train"}]', "no held-out items among 1; .* --held-out 0 for facts"),
        ('[{"prompt": "a", "answer": "b", "split": "dev"}]', "item 1: split 'dev' given; expected one of train"),
        ('[{"prompt": "a", "answer": "b", "split": "test"}]', "no items to learn"),
        (
            '[{"prompt": "a", "answer": "b", "split": "train"}, {"prompt": "a", "answer": "b", "split": "test"}]',
            "the prompt 'a' is in both splits",
        ),
        ('[{"messages": [{"role": "user", "content": "a"}]}]', "expected a chat in which the assistant answers"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_learned_and_measured_is_refused(
    tmp_path: Path, write: Callable, text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        prepare_task(write("t.json", text), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("own.py", "expected the name of a class or function in it, as in .*own.py:NAME"),
        ("own.py:revers", "has no revers, did you mean reverse"),
        ("owm.py:reverse", "there is no file .*owm.py, did you mean own.py"),
        ("own.py:number", "it gives no items .* expected a class with items"),
        ("own.py:changing", "it gives other items each time"),
        ("own.py:words", r"item 1 of .*: expected \(prompt, answer\)"),
        ("broken.py:any", "broken.py cannot be imported: NameError"),
        ("own.txt", "expected mytask.py:NAME, or a table ending in"),
        ("t.csv:question=q", "'question' given; expected columns as in"),
        ("t.csv", "row 1: more cells than columns"),
    ],
)
def test_what_is_no_task_is_refused(tmp_path: Path, write: Callable, spec: str, message: str) -> None:
    write("own.py", "import random\nnumber = 3\nwords = ['a']\ndef reverse(seed):\n    return [('a', 'b')]\n"
        "def changing():\n    return [('a', str(random.random()))]\n")  # fmt: skip
    write("broken.py", "undefined\n")
    write("own.txt", "text")
    write("t.csv", "prompt,answer\na,b,c\n")
    with pytest.raises(UserError, match=message) as error:
        prepare_task(str(tmp_path / spec), tmp_path)
    assert "\n" not in str(error.value)


def test_an_item_that_does_not_fit_and_an_answer_that_is_joined_with_its_prompt_are_named(tmp_path: Path) -> None:
    from halflife.data.pretrained import prepare_tokenizer

    task = keep([("a long prompt", "answer", False), ("a", "b", True)], "t", tmp_path)
    message = re.escape("the item 'a long prompt' of t takes 20 tokens with its answer: give --sequence-length 19")
    with pytest.raises(UserError, match=message):
        check_task(task, Bytes(), tmp_path, 18)
    check_task(task, Bytes(), tmp_path, 19)
    with pytest.raises(UserError, match="give --sequence-length 39 or more"):
        check_task(task, Bytes(), tmp_path, 19, shots=1)
    tokenizer = prepare_tokenizer(tiny.folder(tmp_path / "model", "llama"), tmp_path)
    joined = keep([("the cat sat on ", "the mat", False)], "joined", tmp_path)
    with pytest.raises(UserError, match="joins the end of the prompt 'the cat sat on ' with its answer 'the mat"):
        check_task(joined, tokenizer, tmp_path, 64)
