"""Personal identifiers that can be told by their form: addresses, numbers with check digits.

Names, places and birthdays need a model of language and are not found here. Each kind errs on the
side of what can be checked: a card number needs its check digit, an address of the internet must be
a public one.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prealign.errors import ConfigError
from prealign.score.density import density
from prealign.text.document import Document, Finding, Judgement

Span = tuple[int, int]

LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
EMAIL = re.compile(
    rf"(?<![\w.+%-])[\w](?:[\w.+%-]{{0,62}}[\w])?@(?:{LABEL}\.){{1,8}}[A-Za-z]{{2,24}}(?![\w-])",
    re.ASCII,
)
URL = re.compile(r"(?<!\w)(?:(?:https?|ftp)://|www\.)[^\s<>\"'`()\[\]{}|\\^]+", re.IGNORECASE)
URL_TAIL = ".,;:!?*_"
"""What stands behind an URL and not in it."""
INTERNATIONAL = re.compile(r"(?<![\w+.-])\+\d{1,3}(?:[ .-]?(?:\(\d{1,4}\)|\d{1,4})){2,7}(?![\w-])")
NORTH_AMERICAN = re.compile(
    r"(?<![\w+.-])(?:\([2-9]\d\d\) ?|[2-9]\d\d([-.]))[2-9]\d\d[-.]\d{4}(?![\w-])"
)
IPV4 = re.compile(r"(?<![\w.-])\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)")
IPV6 = re.compile(
    r"(?<![\w:.])(?=[0-9A-Fa-f:]*\d)[0-9A-Fa-f]{1,4}(?::{1,2}[0-9A-Fa-f]{1,4}){2,7}(?![\w:])"
)
CARD = re.compile(r"(?<![\w.+-])[2-6]\d{3}(?:[ -]?\d){9,15}(?![\w-])")
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,27}")
SSN = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
IBAN_CHARS = {
    "AE": 23, "AT": 20, "BE": 16, "BG": 22, "BR": 29, "CH": 21, "CY": 28, "CZ": 24, "DE": 22,
    "DK": 18, "EE": 20, "ES": 24, "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28,
    "IE": 22, "IL": 23, "IS": 26, "IT": 27, "LT": 20, "LU": 20, "LV": 21, "MT": 31, "NL": 18,
    "NO": 15, "PL": 28, "PT": 25, "RO": 24, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "TR": 26,
}  # fmt: skip
"""Length by country (ISO 13616)."""
MIN_PHONE_DIGITS, MAX_PHONE_DIGITS = 8, 15


def emails(text: str) -> Iterator[Span]:
    """Yield addresses such as jo@example.org."""
    for match in EMAIL.finditer(text):
        if ".." not in match.group():
            yield match.span()


def urls(text: str) -> Iterator[Span]:
    """Yield addresses of the web, without the punctuation behind them."""
    for match in URL.finditer(text):
        found = match.group().rstrip(URL_TAIL)
        host = re.sub(r"^\w+://", "", found)
        if "." in host.strip("."):
            yield match.start(), match.start() + len(found)


def phones(text: str) -> Iterator[Span]:
    """Yield numbers with a country code (E.164: up to 15 digits), and North American ones."""
    for match in INTERNATIONAL.finditer(text):
        if MIN_PHONE_DIGITS <= _count_digits(match.group()) <= MAX_PHONE_DIGITS:
            yield match.span()
    for match in NORTH_AMERICAN.finditer(text):
        yield match.span()


def internet_addresses(text: str) -> Iterator[Span]:
    """Yield public addresses of both versions; no loopback, private or documentation ones."""
    for pattern in (IPV4, IPV6):
        for match in pattern.finditer(text):
            try:
                address = ipaddress.ip_address(match.group())
            except ValueError:
                continue
            if address.is_global:
                yield match.span()


def cards(text: str) -> Iterator[Span]:
    """Yield payment card numbers whose check digit is right (ISO 7812, Luhn)."""
    for match in CARD.finditer(text):
        digits = [int(char) for char in match.group() if char.isdigit()]
        if len(set(digits)) > 1 and luhn_holds(digits):
            yield match.span()


def ibans(text: str) -> Iterator[Span]:
    """Yield bank account numbers whose length and check digits are right (ISO 13616)."""
    for match in IBAN.finditer(text):
        wanted = IBAN_CHARS.get(match.group()[:2])
        chars, end = "", match.start()
        for at, char in enumerate(match.group(), start=match.start()):
            if wanted is None or len(chars) == wanted:
                break
            if char != " ":
                chars, end = chars + char, at + 1
        ends_there = end == len(text) or not text[end].isalnum()
        if wanted is not None and len(chars) == wanted and ends_there and iban_holds(chars):
            yield match.start(), end


def social_security(text: str) -> Iterator[Span]:
    """Yield United States social security numbers, in their dashed form."""
    for match in SSN.finditer(text):
        yield match.span()


KINDS: dict[str, Callable[[str], Iterator[Span]]] = {
    "email": emails,
    "url": urls,
    "phone": phones,
    "internet address": internet_addresses,
    "card": cards,
    "iban": ibans,
    "social security": social_security,
}


@dataclass(frozen=True, kw_only=True)
class Pii:
    """Identifiers that begin in a span, per character of the span. An empty span scores 0.

    Where two kinds overlap, the one that begins first counts, and of those the longer.
    """

    kinds: tuple[str, ...] = tuple(KINDS)
    """Which are looked for."""

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(f"Pii: no kind {kind!r}; allowed: {', '.join(KINDS)}")
        if not self.kinds:
            raise ConfigError(f"Pii: no kinds; give one or more of {', '.join(KINDS)}")

    @property
    def name(self) -> str:
        """The key of its scores."""
        return "pii"

    @property
    def version(self) -> str:
        """Changes when the same text could get another score."""
        return "1"

    def __call__(self, documents: Sequence[Document]) -> list[Judgement]:
        """Return a score per span and a finding per identifier, for each document."""
        return [self._judge(document) for document in documents]

    def find(self, text: str) -> list[Finding]:
        """Return the identifiers of a text, in order, none inside another."""
        found = [(start, -end, kind) for kind in self.kinds for start, end in KINDS[kind](text)]
        kept: list[Finding] = []
        for start, end, kind in sorted(found):
            if not kept or start >= kept[-1].end_char:
                kept.append(Finding(start, -end, kind, f"looks like: {kind}"))
        return kept

    def _judge(self, document: Document) -> Judgement:
        findings = self.find(document.text)
        scores: list[float | None] = [*density(document.spans, [f.start_char for f in findings])]
        return Judgement(scores, findings)


def luhn_holds(digits: Sequence[int]) -> bool:
    """Return whether the last digit is the check digit of the others (ISO 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = digit * (1 + place % 2)
        total += doubled - 9 * (doubled > 9)
    return total % 10 == 0


def iban_holds(chars: str) -> bool:
    """Return whether the check digits are right: read as ISO 7064 says, it is 1 modulo 97."""
    turned = chars[4:] + chars[:4]
    return int("".join(str(int(char, 36)) for char in turned)) % 97 == 1


def _count_digits(text: str) -> int:
    return sum(char.isdigit() for char in text)
