"""Recognises what must not be written into a record: keys, tokens, passwords."""

from __future__ import annotations

import re
from collections.abc import Sequence

MASK = "***"

_WORDS = r"secret|token|passw(?:or)?d|passphrase|passwd|pwd|api_?-?key|access_?-?key|private_?-?key|credential|auth"
_NAME = re.compile(_WORDS + r"|(?:^|[_-])key$", re.IGNORECASE)
_NOT_SECRET = re.compile(r"tokeniz|author|max_?-?tokens|num_?-?tokens|pad_?-?token|(?:eos|bos)_?-?token", re.IGNORECASE)
_USER_INFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@'\"]+@", re.IGNORECASE)
_QUERY = re.compile(rf"([?&][^=&\s]*(?:{_WORDS}|sig|signature)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE)
_SETTING = re.compile(
    rf"(\b[\w-]*(?:{_WORDS})[\w-]*[\"']?\s*[:=]\s*)(\"[^\"\n]+\"|'[^'\n]+'|[^\s\"',;()]+)", re.IGNORECASE
)
# Tokens that say what they are: GitHub, GitLab, Slack, AWS, OpenAI, Hugging Face, JWT.
_VALUE = re.compile(
    r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}"
    r"|sk-[\w-]{20,}|hf_[A-Za-z0-9]{20,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
)


def is_secret_name(name: str) -> bool:
    """Tells whether a variable or option of this name holds a secret."""
    return bool(_NAME.search(name)) and not _NOT_SECRET.search(name)


def scrub(text: str) -> str:
    """Masks credentials in addresses and tokens of known forms."""
    return _VALUE.sub(MASK, _QUERY.sub(rf"\1{MASK}", _USER_INFO.sub(r"\1", text)))


def scrub_source(text: str) -> str:
    """Masks, beyond `scrub`, values that are assigned to names of secrets."""

    def mask(match: re.Match[str]) -> str:
        return match[0] if _NOT_SECRET.search(match[1]) else f"{match[1]}{MASK}"

    return _SETTING.sub(mask, scrub(text))


def scrub_command(words: Sequence[str]) -> list[str]:
    """Masks the values of options such as ``--api-key X`` and ``--token=X``."""
    clean: list[str] = []
    hide_next = False
    for word in words:
        name, equals, _ = word.partition("=")
        if hide_next and not word.startswith("-"):
            clean.append(MASK)
        elif equals and is_secret_name(name):
            clean.append(f"{name}={MASK}")
        else:
            clean.append(scrub(word))
        hide_next = word.startswith("-") and not equals and is_secret_name(name)
    return clean
