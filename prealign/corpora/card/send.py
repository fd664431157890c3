"""An export goes to the hub: whole, and with a licence for each source, or not at all."""

from prealign.corpora.card.export import Exported
from prealign.corpora.card.licences import NAMED, Licences, refuse_unstated
from prealign.corpora.card.manifest import check_export
from prealign.hub.push import push

REPLACED = ("data/*", "provenance.jsonl")
"""What an upload takes away of an earlier one, so that old data cannot stay among the new."""


def send(exported: Exported, licences: Licences, repo: str, *, public: bool = False) -> str:
    """Upload an export and return where it can be seen.

    Raises:
        ConfigError: A source has no licence, or `repo` is not OWNER/NAME; nothing is sent.
        DataError: The export is not as it was written; nothing is sent.
        RunError: The hub cannot be reached, or refuses.
    """
    refuse_unstated(licences, exported.counts)
    check_export(exported.folder)
    return push(exported.folder, repo, kind="dataset", replaces=REPLACED, public=public)


def summary(exported: Exported, licences: Licences) -> str:
    """Return what was written in a few lines."""
    counts = exported.counts
    lines = [
        f"{exported.folder}: {counts.all.documents:,} documents, {counts.all.spans:,} spans in "
        f"{exported.files} files; the card is its README.md"
    ]
    missing = licences.unstated(counts)
    if missing:
        shown = ", ".join(repr(name) for name in missing[:NAMED])
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        lines.append(f"licence not stated: {shown}{more} (--source NAME=LICENCE)")
    return "\n".join(lines)
