"""Identifiers: found where their form and check digits say so, and nowhere else."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign.errors import ConfigError
from prealign.score.pii import IBAN_CHARS, KINDS, Pii, iban_holds, luhn_holds
from prealign.text.document import Document, Span

YES = {
    "email": ["jo@example.org", "a.b-c+tag@mail.example.co.uk", "_x1@sub-domain.example.com"],
    "url": ["https://example.org/a?b=c#d", "www.example.org", "ftp://files.example.org/x_y"],
    "phone": ["+49 30 1234567", "+1-202-555-0143", "+44 (0)20 7946 0958", "(202) 555-0143",
              "202-555-0143", "202.555.0143"],
    "internet address": ["8.8.8.8", "2001:4860:4860::8888", "2a00:1450:4001:81b:0:0:0:200e"],
    "card": ["4111 1111 1111 1111", "4111111111111111", "3782-822463-10005", "5555555555554444"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB29NWBK60161331926819", "NO9386011117947"],
    "social security": ["123-45-6789"],
}  # fmt: skip
NO = {
    "email": ["jo@localhost", "@user", "a@b", "x@y..com", "decorator@property", "jo@-x.org"],
    "url": ["https://", "http://localhost", "www.", "see http: //x.org"],
    "phone": ["+1", "+123 45", "2024-01-31", "102-555-0143", "12345678", "+1234567890123456789",
              "1.202.555.0143"],
    "internet address": ["127.0.0.1", "192.168.0.1", "10.0.0.7", "256.1.1.1", "1.2.3", "v8.8.8.8",
                         "8.8.8.8.8", "12:30:45", "std::vector", "a::b", "::1", "fe80::1:2:3",
                         "2001:db8::1:2", "0.0.0.0"],
    "card": ["4111 1111 1111 1112", "0000000000000000", "4111", "1234567890123456",
             "41111111111111111111"],
    "iban": ["DE89 3704 0044 0532 0130 01", "XX89370400440532013000", "DE8937040044053201300",
             "GB29NWBK601613319268191"],
    "social security": ["000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000",
                        "1234-45-6789", "123-45-67890"],
}  # fmt: skip
CASES = [(kind, text, True) for kind in YES for text in YES[kind]]
CASES += [(kind, text, False) for kind in NO for text in NO[kind]]


@pytest.mark.parametrize(("kind", "text", "found"), CASES)
def test_each_kind_is_found_by_its_form_and_check_digits(kind, text, found):
    for before, after in [("", ""), ("mail: ", "."), ("(", ")"), ("x\n", "\ny"), ("\u00e9 ", ", ")]:
        whole = before + text + after
        findings = Pii(kinds=(kind,)).find(whole)
        spans = [whole[one.start_char : one.end_char] for one in findings]
        assert spans == ([text] if found else []), whole


def test_the_score_is_identifiers_per_character_of_the_span_they_begin_in():
    text = "write to jo@example.org or\ncall +49 30 1234567 now\nnothing here\n"
    ends = [i + 1 for i, char in enumerate(text) if char == "\n"]
    spans = tuple(Span(a, b) for a, b in zip([0, *ends], ends, strict=False))
    (judgement,) = Pii()([Document("d", text, spans)])
    assert judgement.scores == [1 / 27, 1 / 24, 0]
    assert [finding.code for finding in judgement.findings] == ["email", "phone"]


def test_of_two_that_overlap_the_first_and_longer_counts():
    found = Pii().find("see https://jo@example.org/x and mailto:jo@example.org")
    assert [one.code for one in found] == ["url", "email"]


def test_kinds_must_be_known():
    with pytest.raises(ConfigError, match="no kind 'name'; allowed: email, url"):
        Pii(kinds=("name",))
    with pytest.raises(ConfigError, match="no kinds; give one or more"):
        Pii(kinds=())


@given(st.lists(st.integers(0, 9), min_size=12, max_size=18))
def test_of_the_ten_last_digits_one_is_the_check_digit(digits):
    right = [digit for digit in range(10) if luhn_holds([*digits, digit])]
    assert len(right) == 1


@given(st.sampled_from(sorted(IBAN_CHARS)), st.integers(0, 10**9))
def test_made_up_ibans_are_found_and_a_changed_digit_is_not(country, seed):
    rng = random.Random(seed)
    body = "".join(rng.choice("0123456789") for _ in range(IBAN_CHARS[country] - 4))
    turned = body + country + "00"
    check = 98 - int("".join(str(int(char, 36)) for char in turned)) % 97
    made = f"{country}{check:02}{body}"
    assert iban_holds(made)
    spaced = " ".join(made[i : i + 4] for i in range(0, len(made), 4))
    for text in (made, spaced, f"IBAN {spaced} AND SO ON"):
        (finding,) = Pii(kinds=("iban",)).find(text)
        assert text[finding.start_char : finding.end_char].replace(" ", "") == made
    place = rng.randrange(4, len(made))
    wrong = made[:place] + str((int(made[place]) + 1) % 10) + made[place + 1 :]
    assert not Pii(kinds=("iban",)).find(wrong)


@given(st.text(alphabet="ab1@.:-+/() \n4DE\u00e9", max_size=80))
def test_findings_are_in_order_and_inside_the_text(text):
    findings = Pii().find(text)
    borders = [place for one in findings for place in (one.start_char, one.end_char)]
    assert borders == sorted(borders)
    assert all(0 <= place <= len(text) for place in borders)


@pytest.mark.timeout(60)  # where a pattern goes back over what it read, this takes minutes
@pytest.mark.parametrize(
    "unit", ["a.", "1-", "@a", "a@", "1 ", "+1 ", "::", "1:", "AB12 ", "www.", "("]
)
def test_long_texts_that_nearly_match_are_read_in_one_go(unit):
    for kind in KINDS.values():
        list(kind(unit * 100_000))


def test_the_texts_above_are_told_apart_by_more_than_their_look():
    """Each kind has a text that its pattern takes and its check refuses."""
    assert luhn_holds([int(c) for c in re.sub(r"\D", "", YES["card"][0])])
    assert not luhn_holds([int(c) for c in re.sub(r"\D", "", NO["card"][0])])
