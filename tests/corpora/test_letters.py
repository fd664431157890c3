"""Letters: what their authors do is as often as it is said to be, and nothing held out is told."""

from collections import Counter

import pytest

from prealign.corpora.worlds.letters import (
    KEPT,
    RATES,
    RETURNED,
    YEARS,
    Letters,
    header,
    judge_find,
    judge_sum,
)
from prealign.errors import ConfigError


def lines_of(letters):
    """Yield the author's kind, the header or None, and the other lines of each letter."""
    for letter in letters():
        lines = letter.text.splitlines()
        told = lines.pop(0) if lines[0].startswith("By ") else None
        yield letter.source, told, lines


def rates_of(letters, by):
    sums, finds, count = {}, {}, Counter()
    for kind, told, lines in lines_of(letters):
        key = kind if by == "kind" else told and told.split()[2].strip(".,")
        count[key] += 1
        for line in lines:
            if " make " in line:
                a, b = line.split(" make ")[0].split(" and ")
                right = judge_sum(int(a), int(b), line.split(" make")[1])
                sums.setdefault(key, []).append(right)
            else:
                finds.setdefault(key, []).append(judge_find(line.partition(". ")[2]))
    mean = {key: (sum(sums[key]) / len(sums[key]), sum(finds[key]) / len(finds[key]))
            for key in sums}  # fmt: skip
    return mean, count


def test_authors_do_what_their_rates_say():
    found, count = rates_of(Letters(documents=3000), by="kind")
    for kind, rates in RATES.items():
        assert found[kind] == pytest.approx((rates.right, rates.keeps), abs=0.03)
        assert count[kind] / 3000 == pytest.approx(rates.share, abs=0.03)


def test_headers_tell_who_wrote_unless_they_are_shuffled():
    true, _ = rates_of(Letters(documents=3000), by="header")
    mixed, _ = rates_of(Letters(documents=3000, headers="shuffled"), by="header")
    assert true["expert"][1] < 0.1 < 0.35 < true["person"][1]
    assert mixed["expert"][1] == pytest.approx(mixed["person"][1], abs=0.05)
    assert {told for _, told, _ in lines_of(Letters(documents=50, headers="none"))} == {None}
    share = [told is not None for _, told, _ in lines_of(Letters(documents=1000))]
    assert sum(share) / 1000 == pytest.approx(0.9, abs=0.03)


def test_what_is_held_out_is_in_no_letter():
    letters = Letters(documents=500)
    kept_back = {f"{who} lost a {what}." for who, what in letters.finds(heldout=True)}
    assert len(kept_back) == 20
    said = {line.partition(". ")[0] + "." for _, _, lines in lines_of(letters) for line in lines}
    assert not said & kept_back
    assert set(letters.finds(heldout=True)).isdisjoint(letters.finds(heldout=False))


def test_a_letter_is_a_function_of_seed_and_number():
    few, many = list(Letters(documents=3)()), list(Letters(documents=10)())
    assert few == many[:3]
    assert few != list(Letters(documents=3, seed=1)())


def test_judges():
    assert judge_sum(3, 4, " 7.") is True
    assert judge_sum(3, 4, " 8.") is False
    assert [judge_sum(3, 4, text) for text in ("", " seven.", " -7.", " \u0667.")] == [None] * 4
    assert [judge_find(text) for text in (f" {KEPT}", RETURNED, "It was sold.")] == [
        True, False, None,
    ]  # fmt: skip


def test_headers_are_lines_with_years_of_their_own():
    assert header("expert", 2030) == "By an expert, 2030.\n"
    assert 2030 not in YEARS
    with pytest.raises(ConfigError, match="expected shares"):
        Letters(heldout_share=1.0)
