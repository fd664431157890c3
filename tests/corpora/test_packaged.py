"""Texts of data packages, from made-up packages with known texts."""

import codecs
import sys

import pytest

from prealign.corpora.packaged import Fortunes, Reviews, Together
from prealign.errors import ConfigError, DataError, MissingDependency


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install made-up packages: name to {path: bytes}."""

    def install(name, files):
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        for path, data in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(data)
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in files))

    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return install


def test_fortunes_are_cut_at_their_borders_and_the_offensive_ones_are_decoded(installed):
    rude = codecs.encode("You fool!\n%\nAway with you.\n", "rot13").encode()
    installed("some-fortunes", {
        "share/fortune/plain": b"%% a comment\n%\nBe kind.\n\t-- Me\n%\n\n%\nAgain.\n",
        "share/fortune/plain.dat": b"\x00",
        "share/fortune/plain-o": rude,
        "share/doc/readme": b"no fortune",
    })  # fmt: skip
    found = list(Fortunes(packages=("some-fortunes",))())
    assert [document.text for document in found] == [
        "Be kind.\n\t-- Me\n", "Again.\n", "You fool!\n", "Away with you.\n",
    ]  # fmt: skip
    assert len({document.id for document in found}) == 4
    assert all(document.source == document.id for document in found)
    assert found[2].id == "some-fortunes/plain-o:0"


def test_reviews_are_the_rows_of_the_file_with_lines_for_breaks(installed):
    rows = b'text,label\n"Good, really.<br /><br />Go.",1\nBad<br>!,0\n'
    installed("some-reviews", {"reviews/data/all.csv": rows})
    reviews = Reviews(package="some-reviews")
    assert [document.text for document in reviews()] == ["Good, really.\n\nGo.", "Bad\n!"]
    assert len(list(Together(sources=(reviews, reviews))())) == 4
    assert [d.id for d in Reviews(package="some-reviews", every=2)()] == ["some-reviews/0"]
    with pytest.raises(ConfigError, match=r"Reviews\.every=0: must be at least 1"):
        Reviews(every=0)


def test_what_is_not_there_says_what_to_install(installed):
    with pytest.raises(MissingDependency, match=r"nowhere-at-all is not installed: pip install"):
        list(Fortunes(packages=("nowhere-at-all",))())
    installed("empty-one", {"a/b.txt": b"x"})
    with pytest.raises(DataError, match="empty-one: has no files of fortunes"):
        list(Fortunes(packages=("empty-one",))())
    with pytest.raises(DataError, match="empty-one: has no CSV file"):
        list(Reviews(package="empty-one")())
    installed("other-one", {"c/d.csv": b"words\nx\n"})
    with pytest.raises(DataError, match="has no column 'text'"):
        list(Reviews(package="other-one")())
