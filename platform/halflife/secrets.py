"""Masks credentials in URLs, in any text that is shown or stored. Standard library only: analysis imports this too."""

from __future__ import annotations

import re

_INNER = r'(?!</|"[\s,:>\]}])\S'
"""A character of a URL: a password may hold any, but a match must not run over the end of a JSON string or an HTML tag.
"""
_USER = re.compile(rf"(://)[^\s/:@\"'<>]*(?:@|:(?:{_INNER})*)")
_ENCODED_USER = re.compile(r"(?i)(%3A%2F%2F)(?:(?!%2F|%3A|%40)[^\s&#\"'<>])*(?:%40|%3A[^\s&#\"'<>]*)")
_NAMES = (
    r"password|passwd|passphrase|pwd|secret|token|credentials?|auth|authorization|sig|signature|"
    r"(?:api|access|secret|private|account|shared|encryption|subscription)[_.-]?key(?:[_.-]?id)?"
)
_ENTITY = r"&(?:#\w+|lt|gt|quot);"  # of HTML: part of a value, not the end of it
_QUERY = re.compile(
    rf"(?i)((?:[?;#&]|%3F|%3B|%23|%26)[\w.-]{{0,80}}?(?:{_NAMES})\d*)"
    rf"(?:(=)(?:[^&#\s\"'<>]|{_ENTITY})+|(%3D)(?:(?!%26|%23)[^&#\s\"'<>])+)"
)


def masked(text: str) -> str:
    """`text` with `***` for the credentials of its URLs: `user:password@`, and in queries the values of parameters
    whose names end in a word for a secret (`password`, `aws_secret_access_key`, `X-Amz-Signature`), in any case and
    also where the separators are percent-encoded, as in a URL inside another's query.

    Applies to plain text, shell commands, JSON and HTML. Where a URL is ambiguous it masks too much, not too little.
    """
    text = _USER.sub(lambda match: _without_user(match, "@"), text)
    text = _ENCODED_USER.sub(lambda match: _without_user(match, "%40"), text)
    return _QUERY.sub(lambda match: f"{match[1]}{match[2] or match[3]}***", text)


def _without_user(match: re.Match[str], at: str) -> str:
    _, found, rest = match[0].rpartition(at)
    return f"{match[1]}***{at}{rest}" if found else match[0]
