from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from prealign.config import fingerprint, override, to_json
from prealign.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    lr: float = 1e-3
    steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int = 1
    size: Literal["tiny", "small"] = "tiny"
    out: Path = Path("x")
    note: str = ""
    on: bool = False
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("count=3", Outer(count=3)),
        ("inner.lr=1", Outer(inner=Inner(lr=1.0))),
        ("inner.lr=3e-4", Outer(inner=Inner(lr=3e-4))),
        ("inner.steps=5", Outer(inner=Inner(steps=5))),
        ("inner.steps=none", Outer()),
        ("size=small", Outer(size="small")),
        ("out=a/b", Outer(out=Path("a/b"))),
        ("note=a=b", Outer(note="a=b")),
        ("note=12", Outer(note="12")),
        ("on=true", Outer(on=True)),
    ],
)
def test_values_take_the_type_of_their_setting(assignment, expected):
    before = Outer()
    assert override(before, [assignment]) == expected
    assert before == Outer()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "counts=1",
            r"Outer has no setting 'counts'; did you mean 'count'\? \(it has: count, size",
        ),
        ("count=abc", "count=abc: expected int, got str"),
        ("count=1.5", "count=1.5: expected int, got float"),
        ("count=true", "count=true: expected int, got bool"),
        ("on=1", "on=1: expected bool, got int"),
        ("inner.lr=fast", "inner.lr=fast: expected float, got str"),
        ("inner.steps=x", "inner.steps=x: expected int or none, got str"),
        ("size=huge", "size=huge: expected one of tiny, small"),
        ("count.x=1", "count.x: a int has no settings below it"),
        ("count", "'count': expected KEY=VALUE"),
    ],
)
def test_a_bad_assignment_says_what_is_allowed(assignment, message):
    with pytest.raises(ConfigError, match=message):
        override(Outer(), [assignment])


@dataclass(frozen=True)
class Pair:
    width: int = 192
    heads: int = 6

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError("does not divide")


def test_settings_that_must_fit_each_other_change_together():
    assert override(Pair(), ["width=64", "heads=2"]) == Pair(64, 2)
    with pytest.raises(ConfigError, match="does not divide"):
        override(Pair(), ["width=64"])


def test_of_two_values_the_last_counts():
    assert override(Outer(), ["count=1", "count=2"]).count == 2


def test_a_fingerprint_changes_with_any_setting_and_with_nothing_else():
    assert fingerprint(Outer()) == fingerprint(Outer())
    assert fingerprint(Outer()) != fingerprint(Outer(inner=Inner(lr=2e-3)))


def test_a_function_is_recorded_by_its_import_path():
    assert to_json({"f": fingerprint}) == {"f": "prealign.config.fingerprint"}


@pytest.mark.parametrize("value", [object(), lambda text: True])
def test_what_has_no_lasting_form_is_refused(value):
    with pytest.raises(ConfigError, match="cannot be recorded as a setting"):
        to_json({"a": value})
