"""Takes credentials out of texts that come from pods. Pure.

Whoever runs in a pod chooses the text, so no pattern may take longer than its length allows: each begins with something
that can't begin again inside of what it scans, or scans a bounded number of characters.
"""

from __future__ import annotations

import re

HIDDEN = "[removed]"
SECRETS = (
    # NAME=value, NAME: value, "name": "value", for names that tell that the value is secret. credentialsSecret is a
    # field of the manifest that names a Secret, and trainers put it before what is wrong with it.
    re.compile(
        r"(?ix) (?P<kept> (?: AWS(?=_[A-Z]) | (?<!credentials)secret | token | passw(?:or)?d | passphrase |"
        r" api[_-]?key | access[_-]?key(?:[_-]?id)? | private[_-]?key | credentials? | signature )"
        r" (?: [_.-] [\w.-]{0,64} )? [\"']? \s* [=:] \s* )"
        r"(?: \"[^\"]*\" | '[^']*' | [^\s,;&\"']+ )"
    ),
    re.compile(r"(?i)(?P<kept>\bauthorization[\"']?\s*[:=]\s*).*"),
    re.compile(r"(?i)(?P<kept>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"(?P<kept>://)[^\s/]+(?=@)"),  # user and password of a URL
    re.compile(r"(?i)(?P<kept>[?&](?:x-amz-[a-z-]+|sig|signature|token|key)=)[^\s&\"']+"),
    re.compile(r"(?P<kept>)\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b"),  # key ids of AWS
    re.compile(r"(?P<kept>)\b(?:hf|ghp|gho|ghs|glpat|xox[abp])[_-][A-Za-z0-9_-]{16,}"),  # tokens of well-known places
    # JSON web tokens
    re.compile(r"(?P<kept>)(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"),
    re.compile(r"(?s)(?P<kept>)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"),
)
LONG = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{40,}={0,2}(?![A-Za-z0-9+/_=-])")
HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}|[0-9A-F]{40}")
"""Digests of git and sha256: they are no secrets, and help."""


def without_credentials(text: str) -> str:
    """The text with [removed] in the place of what looks like a credential."""
    for pattern in SECRETS:
        text = pattern.sub(lambda match: match["kept"] + HIDDEN, text)
    return LONG.sub(_unless_harmless, text)


def _unless_harmless(match: re.Match[str]) -> str:
    """A long word that looks random is taken for a secret; digests, paths and names are kept."""
    word = match.group()
    parts = word.split("/")
    path = len(parts) > 2 and not any(len(part) >= 32 and _is_mixed(part) for part in parts)
    return word if HEX.fullmatch(word) or path or not _is_mixed(word) else HIDDEN


def _is_mixed(word: str) -> bool:
    return any(c.isupper() for c in word) and any(c.islower() for c in word) and any(c.isdigit() for c in word)
