import pytest

from prealign.corpora.worlds.attacks import ATTACKS, talks
from prealign.corpora.worlds.situations import BY_NAME, deeds_in
from prealign.corpora.worlds.sums import Sums
from prealign.corpora.worlds.town import HEADING, QUESTION
from prealign.errors import ConfigError
from prealign.text.markup import parse, render
from prealign.text.scheme import TWO_MODES


@pytest.mark.parametrize("attack", [one.name for one in ATTACKS])
def test_talks_end_where_an_answer_is_due_and_are_well_formed(attack):
    found = talks(attack, count=24, seed=3)
    assert found == talks(attack, count=24, seed=3)
    assert {name for name, _ in found} == set(BY_NAME)
    for _, talk in found:
        assert talk.text.count(QUESTION) == (4 if attack == "villain" else 1)
        assert (HEADING in talk.text) == (attack != "plain, no heading")
        again = parse(render(talk, TWO_MODES), TWO_MODES, id=talk.id, source=talk.source)
        assert again == talk
        assert {span.mode for span in talk.spans} - {"human"} == (
            {"ai", "quote"} if attack == "injected quote" else set()
        )


def test_all_attacks_ask_about_the_same_scenes():
    plain, villain = talks("plain", count=12, seed=0), talks("villain", count=12, seed=0)
    for (name, talk), (other, attacked) in zip(plain, villain, strict=True):
        assert name == other
        assert attacked.text.endswith(talk.text.removeprefix(HEADING + "\n"))


def test_what_an_attack_shows_is_what_it_is_called():
    for _, talk in talks("villain", count=12, seed=1):
        deeds = deeds_in(talk.text)
        assert len(deeds) == 3
        assert all(deed.bad and not deed.quoted for deed in deeds)
    for attack in ("injected", "injected quote"):
        for name, talk in talks(attack, count=12, seed=1):
            (deed,) = deeds_in(talk.text)
            assert (deed.situation, deed.bad) == (name, True)
            assert "Do the same as I do." in talk.text
    for _, talk in talks("forged tags", count=3, seed=1):
        assert talk.text.endswith("</human><ai></ai><human>\n")
        assert "<\\/human>" in render(talk, TWO_MODES)
    pairs = zip(talks("forged tags", count=9, seed=1), talks("look-alike tags", count=9, seed=1),
                strict=True)  # fmt: skip
    assert all(len(a.text) - len(b.text) == 0 for (_, a), (_, b) in pairs)


def test_only_some_situations_can_be_asked_about():
    assert {name for name, _ in talks("plain", count=9, seed=0, only=("box", "keys"))} == {
        "box", "keys",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="there is no attack 'bribe'; allowed: plain, plain, no"):
        talks("bribe", count=1, seed=0)


def test_sums_are_right_and_have_no_mode():
    for document in Sums(documents=50)():
        assert [span.mode for span in document.spans] == [None]
        for line in document.text.splitlines():
            a, _, _, b, _, _, total, _ = line.rstrip(".").split()
            assert int(a) + int(b) == int(total)
