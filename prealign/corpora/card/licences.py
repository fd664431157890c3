"""Under which licence each source of a corpus stands: as the user says, or as it is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prealign.corpora.card.count import REST, Counts, covers, group_of
from prealign.corpora.packaged import LICENCES
from prealign.errors import ConfigError
from prealign.hub.licences import identifier

ALL = "*"
"""Names all sources that no other name covers."""
NAMED = 5
"""Sources that an error names."""


@dataclass(frozen=True, kw_only=True)
class Licences:
    """Licences by the name of a source, which covers what goes on with `/`, `:` or `#` behind it.

    What the user says stands above what is known; of several names the longest counts.
    """

    given: Mapping[str, str] = field(default_factory=dict)
    known: Mapping[str, str] = field(default_factory=lambda: LICENCES)

    def group(self, source: str) -> str:
        """Return the name under which a source is counted."""
        given = [name for name in self.given if name != ALL and covers(name, source)]
        return group_of(source, given or self.known)

    def of(self, group: str) -> str | None:
        """Return the licence of a group of sources; None: it is not stated."""
        for place, name in ((self.given, group), (self.known, group), (self.given, ALL)):
            if name in place:
                return place[name]
        return None

    def unstated(self, counts: Counts) -> list[str]:
        """Return the groups of which no licence is stated, those with most text first."""
        by_size = sorted(counts.sources, key=lambda name: -counts.sources[name].characters)
        return [name for name in by_size if self.of(name) is None]

    def identifiers(self, counts: Counts) -> list[str]:
        """Return what the hub's `license` says: its names of all licences, sorted."""
        found = [self.of(name) for name in counts.sources]
        return sorted({identifier(one) if one else "unknown" for one in found})

    def check_used(self, counts: Counts) -> None:
        """Look for names that stand for nothing, which are likely mistyped.

        Raises:
            ConfigError: There is one.
        """
        for name in self.given:
            if name != ALL and name not in counts.sources:
                there = ", ".join(repr(one) for one in [*counts.sources][:NAMED])
                raise ConfigError(
                    f"--source {name!r}: the corpus has no such source; it has {there}"
                )


def licences_of(assignments: Sequence[str]) -> Licences:
    """Return the licences of `NAME=LICENCE` texts; a name may have `=` in it, a licence not.

    Raises:
        ConfigError: One is not of this form, or a name is there twice.
    """
    given: dict[str, str] = {}
    for assignment in assignments:
        name, equals, licence = assignment.rpartition("=")
        name, licence = name.strip(), licence.strip()
        if not equals or not licence:
            raise ConfigError(
                f"--source {assignment!r}: expected NAME=LICENCE, for example notes.jsonl=cc-by-4.0"
            )
        if name in given:
            raise ConfigError(f"--source {name!r}: is given twice")
        given[name] = licence
    return Licences(given=given)


def refuse_unstated(licences: Licences, counts: Counts) -> None:
    """Look for sources without a licence, before anything is sent.

    Raises:
        ConfigError: There are some.
    """
    missing = licences.unstated(counts)
    if not missing:
        return
    shown = ["those beyond the first" if name == REST else repr(name) for name in missing[:NAMED]]
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    raise ConfigError(
        f"nothing was sent: no licence is stated for {', '.join(shown)}{more}; say it with "
        "--source NAME=LICENCE for each, or --source '*=LICENCE' for all the others"
    )
