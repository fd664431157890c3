"""Text of unknown origin, made safe to look at: what would act on a screen is spelled out."""

import re

ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
"""Control characters but tab and newline, marks that turn the direction of writing or have no
width, line separators, and lone surrogates, which no file can hold."""
PICTURES = 0x2400
"""Where Unicode has pictures of the ASCII control characters."""


def visible(text: str) -> str:
    """Return the text with characters that act on a screen replaced by names or pictures."""
    return ACTING.sub(_name, text)


def _name(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(PICTURES + code)
    return f"[U+{code:04X}]"
