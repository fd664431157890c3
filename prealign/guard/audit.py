"""Can text become a tag? An audit of any tokenizer, and the proof for the models of prealign.

Text that users, tools or pages send must not become the id of a tag. Whether it can depends on how
the tokenizer was built and on what the code around it does with such text, its *defence*:

nothing     text goes to the tokenizer as it is, which is what engines and chat templates do
escape      the tags' literals are taken out of the text first, or escaped
sanitize    transformers' `apply_chat_template(sanitize_control_tokens=True)`
split       `split_special_tokens=True`, on a tokenizer object that is shared with no other code

Read are the tokenizer's files (which ways lead to a tag's id at all), and tried are some hundred
hostile strings per tag. What no string shows and no file rules out is called unproven, not safe.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prealign.guard.audit_leaks import WORDS, Leaks, shared_flag
from prealign.guard.audit_read import Subject, read_subject
from prealign.guard.audit_report import AuditReport, Defence, Finding
from prealign.guard.audit_routes import Route, routes
from prealign.guard.hostile import hostile, preimages_of
from prealign.tokens.tokenizer import check_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

MOST_TAGS = 64
"""Of a tokenizer's own special tokens, so many are tried in all ways; others by their literals."""


def audit(path: str | Path, tags: Sequence[str] = ()) -> AuditReport:
    """Return what can become a tag with the tokenizer or model at `path`.

    Args:
        path: A folder with tokenizer.json, such a file, or `hub:ORG/NAME` to fetch one.
        tags: The literals to ask about; none: all special tokens and other added ones but
            white space and the unknown token.

    Raises:
        DataError: There is no tokenizer, or it cannot be read, or it is a model of prealign whose
            files do not belong together.
    """
    return audit_subject(read_subject(path), tags)


def audit_subject(subject: Subject, tags: Sequence[str] = ()) -> AuditReport:
    """Return what can become a tag with what was read; see `audit`."""
    if subject.vocabulary is not None:
        return _audit_vocabulary(subject, subject.vocabulary, tags)
    tokenizer = subject.tokenizer
    data = json.loads(tokenizer.to_str())
    ids = {tag: tokenizer.token_to_id(tag) for tag in dict.fromkeys(tags or _own(data))}
    known = {tag: token_id for tag, token_id in ids.items() if token_id is not None}
    ways = routes(data, known)
    tried = tuple(known)[:MOST_TAGS]
    strings = hostile(tried, preimages_of(tokenizer, tried)) if tried else []
    strings += [tag for tag in known if tag not in tried]
    leaks = Leaks(data, known, ways, subject.template)
    leaks.try_all(strings)
    findings = [*leaks.findings(), *shared_flag(tokenizer, leaks)]
    return AuditReport(
        name=subject.name,
        tags=tuple(ids.items()),
        findings=tuple(findings),
        proofs=tuple(_proofs(ids, ways, data, len(tried))),
        strings=len(strings),
    )


def _own(data: Mapping[str, Any]) -> list[str]:
    """Return the tokenizer's own tags."""
    unknown = data["model"].get("unk_token")
    added = [token["content"] for token in data["added_tokens"]]
    return [tag for tag in added if tag.strip() and tag != unknown]


def _proofs(
    ids: Mapping[str, int | None], ways: Mapping[str, Route], data: Mapping[str, Any], tried: int
) -> Iterator[str]:
    kind = data["model"].get("type", "BPE")
    if not ids:
        yield "the tokenizer has no added tokens, so no text can become one"
    absent = [tag for tag, token_id in ids.items() if token_id is None]
    if absent:
        yield f"no id stands for {_some(absent)}, so no text can become one"
    closed = [tag for tag, token_id in ids.items() if token_id is not None and tag not in ways]
    if closed:
        yield f"the {kind} model itself has no way to {_some(closed)}"
    for tag, way in ways.items():
        if way.cut:
            yield f"the pre-tokenizer {way.cut} cuts {tag!r} apart before the model sees it"
    left_out = sum(token_id is not None for token_id in ids.values()) - tried
    if left_out > 0:
        yield f"{left_out} more tags were tried by their literals alone; name them to try more"


def _some(tags: Sequence[str]) -> str:
    more = f" and {len(tags) - 5} more" if len(tags) > 5 else ""
    return ", ".join(repr(tag) for tag in tags[:5]) + more


def _audit_vocabulary(subject: Subject, vocabulary: Vocabulary, tags: Sequence[str]) -> AuditReport:
    """Return the report of a model of prealign: what it is built of, and that it holds."""
    check_text_tokenizer(vocabulary.tokenizer)
    size = vocabulary.text_size
    asked = tuple(dict.fromkeys([*vocabulary.tag_ids, *tags]))
    strings = hostile(asked, {})
    vocabulary.encode_arrays(strings)  # raises on an id that is no text
    findings = []
    for content in subject.late:
        token_id = subject.tokenizer.token_to_id(content)
        if token_id is None or token_id < size:
            continue
        why, mend = WORDS["late token"]
        shown: tuple[Defence, ...] = ("nothing",) if content in asked else ("nothing", "escape")
        findings.append(
            Finding(
                construction="late token",
                tag=content,
                why=why,
                mend=mend,
                shown=tuple((one, content) for one in shown),
            )
        )
    proofs = (
        f"the text tokenizer has the ids 0 to {size - 1}, each for bytes of text, and no other: "
        "byte-level BPE without added tokens, normalizer or unknown token",
        f"the end of text and all tags have ids from {size} on, which do not exist in it",
        "every encoding is checked again: no id at or above the text's, no byte lost",
    )
    ids = tuple((tag, vocabulary.tag_ids.get(tag)) for tag in asked)
    return AuditReport(
        name=subject.name, tags=ids, findings=tuple(findings), proofs=proofs, strings=len(strings)
    )
