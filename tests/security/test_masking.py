"""One function masks every credential in a URL, whatever text the URL stands in."""

from __future__ import annotations

import html
import json
import shlex
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halflife.secrets import masked

SECRET = "5ecret"
ANY = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), max_size=8)
SAFE = st.text("abcXYZ019-._~%!*+", max_size=8)
PREFIX = st.sampled_from(["", "aws_secret_", "X-Amz-", "X-Goog-", "db.", "oauth_"])
NAME = st.sampled_from(
    [
        "password", "passwd", "pwd", "token", "secret", "api_key", "apikey", "api-key", "signature", "sig",
        "access_key", "credential", "client_secret", "Security-Token", "AWSAccessKeyId", "auth",
    ]
)  # fmt: skip


def mixed(name: str, upper: list[bool]) -> str:
    return "".join(letter.upper() if up else letter.lower() for letter, up in zip(name, upper, strict=False))


@given(before=ANY, after=ANY, name=SAFE)
def test_user_and_password_are_masked_and_host_and_path_stay(before: str, after: str, name: str) -> None:
    password = f"{before}{SECRET}{after}".replace("</", "").replace('"', "")
    shown = masked(f"at postgresql://{name}:{password}@host/runs?x=1 now")
    assert SECRET not in shown
    assert shown == "at postgresql://***@host/runs?x=1 now"


@given(before=SAFE, after=SAFE)
def test_what_surrounds_a_url_does_not_matter(before: str, after: str) -> None:
    for url in (f"https://me:{before}{SECRET}{after}@host/x", f"https://host/x?a=1&token={before}{SECRET}{after}"):
        command = masked(shlex.join(["study.py", "--tracking-uri", url, "--seeds", "3"]))
        assert SECRET not in command
        assert command.endswith(" --seeds 3")
        data = json.loads(masked(json.dumps({"uri": url, "mail": "a@b.c"}, separators=(",", ":"))))
        assert SECRET not in data["uri"]
        assert data["mail"] == "a@b.c"
        page = masked(f"<code>{html.escape(url)}</code><b>a@b.c</b>")
        assert SECRET not in page
        assert page.endswith("</code><b>a@b.c</b>")


@given(prefix=PREFIX, name=NAME, upper=st.lists(st.booleans(), min_size=30, max_size=30), value=SAFE)
def test_values_of_secret_parameters_are_masked_and_the_others_stay(
    prefix: str, name: str, upper: list[bool], value: str
) -> None:
    parameter = prefix + mixed(name, upper)
    assert masked(f"s3://b/x?region=eu&{parameter}={value}{SECRET}&tokens=8#top") == (
        f"s3://b/x?region=eu&{parameter}=***&tokens=8#top"
    )


@given(name=NAME, value=ANY)
def test_a_url_inside_another_urls_query_is_masked_too(name: str, value: str) -> None:
    inner = quote(f"https://me:{value}{SECRET}@host/x?a=1&{name}={quote(value + SECRET)}&b=2", safe="")
    shown = masked(f"https://proxy/?to={inner}&c=3")
    assert SECRET not in shown
    assert shown.startswith("https://proxy/?to=https%3A%2F%2F***%40host%2Fx%3Fa%3D1")
    assert shown.endswith("%26b%3D2&c=3")


@given(text=st.text(), url=st.sampled_from(["https://me:a@h/", "?token=x", "%3A%2F%2Fa%40", "", "://:@&sig="]))
def test_masking_twice_is_masking_once(text: str, url: str) -> None:
    once = masked(url + text)
    assert masked(once) == once


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host:5000/x", "https://***@host:5000/x"),
        ("postgresql://me:p@ss/word@host/runs", "postgresql://***@host/runs"),
        ("run --uri postgresql://u:p@ss@db/name --seeds 3", "run --uri postgresql://***@db/name --seeds 3"),
        ("https://token@host", "https://***@host"),
        ("request to http://a:b@c/d failed, see http://e/f", "request to http://***@c/d failed, see http://e/f"),
    ],
)
def test_users_and_passwords_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000",
        "sqlite:///results/mlflow.db",
        "https://host/@name and a@b.c",
        "sqlite:////home/me@work/mlflow.db",
        "http://host:5000/#/experiments/1?design=2&max_tokens=8&assign=3",
        "study.py demo --seeds 3",
        "https://host/%3Fdesign%3D1%26tokens%3D2",
        '{"uri":"http://host:5000","mail":"a@b.c"}',
    ],
)
def test_text_without_credentials_stays(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize("part", ["://a:", "?a", "%3A%2F%2F", "&token", "://a:b@", "a-"])
def test_a_megabyte_takes_seconds_at_most(part: str) -> None:
    began = time.perf_counter()
    masked(part * (1_000_000 // len(part)))
    assert time.perf_counter() - began < 5.0
