r"""Markup: a document as one tagged text, and back. The two are exact inverses.

A tag that is spelled in the text itself gets a backslash after its `<`; one that already has
backslashes there gets one more. As a tag holds neither `<` nor `>` inside, no tag can arise
across the border of a text, and every text survives: `parse(render(d)) == d`. A span of no
mode is opened by `<>`, which is no tag of any scheme and never reaches a model.
"""

import re
from collections.abc import Iterator

from prealign.errors import DataError
from prealign.text.document import Document, Span
from prealign.text.scheme import Mode, Scheme

NO_MODE = "<>"


def render(document: Document, scheme: Scheme) -> str:
    """Return the document's text with the tags of its spans; scores are not rendered.

    Raises:
        DataError: A mode is not in the scheme, or stands where the scheme forbids it.
    """
    parts: list[str] = []
    spelled = _spelled(scheme)
    for tags, span in tagged(document, scheme):
        parts += tags
        if span is not None:
            parts += [NO_MODE] if span.mode is None else []
            parts.append(spelled.sub(r"<\\\1", document.text[span.start_char : span.end_char]))
    return "".join(parts)


def tagged(document: Document, scheme: Scheme) -> Iterator[tuple[list[str], Span | None]]:
    """Yield each span with the tags in front of it, then (closing tags, None).

    This is the one place that decides where tags stand; rendering and encoding both use it.

    Raises:
        DataError: A mode is not in the scheme, or stands where the scheme forbids it.
    """
    stack: list[Mode] = []
    for index, span in enumerate(document.spans):
        tags: list[str] = []
        path = [scheme.by_name[n] for n in scheme.path(span.mode)] if span.mode else []
        where = f"document {document.id!r}, span {index} (mode {span.mode!r})"
        if span.resumes:
            interrupted = path == stack[: len(path)] and 0 < len(path) < len(stack)
            if not interrupted or span.start_char == span.end_char:
                raise DataError(
                    f"{where}: resumes a mode that no span inside it has interrupted, or is empty"
                )
        elif path[:-1] != stack[: max(len(path) - 1, 0)]:
            raise DataError(f"{where}: stands outside of {path[-2].name!r}")
        keep = len(path) if span.resumes else max(len(path) - 1, 0)
        tags += [mode.close for mode in reversed(stack[keep:]) if mode.close]
        if path and not span.resumes:
            tags.append(path[-1].open)
        stack = [mode for mode in path if mode.close]
        yield tags, span
    yield [mode.close for mode in reversed(stack) if mode.close], None


def parse(markup: str, scheme: Scheme, *, id: str = "", source: str = "") -> Document:
    """Return the document that `render` made `markup` from, without its scores.

    Text in front of the first tag, or after a closing tag at the top level, is read as a span of
    no mode; markup without any tag as a document without spans.

    Raises:
        DataError: A tag closes what is not open, or opens where the scheme forbids it.
    """
    tags = {mode.open: (mode, True) for mode in scheme.modes}
    tags |= {mode.close: (mode, False) for mode in scheme.modes if mode.close}
    spelled = _spelled(scheme, escaped=True)
    texts: list[str] = []
    spans: list[Span] = []
    stack: list[Mode] = []
    current = Span(0, 0)
    started = False  # whether `current` was opened by a tag, and so stands even if empty

    def flush(text: str) -> None:
        plain = spelled.sub(r"<\1", text)
        if plain or started:
            end = current.start_char + len(plain)
            texts.append(plain)
            spans.append(current._replace(end_char=end))

    pieces = re.split("(" + "|".join(map(re.escape, [NO_MODE, *scheme.tags])) + ")", markup)
    if len(pieces) == 1:
        return Document(id=id, text=spelled.sub(r"<\1", markup), source=source)
    for text, tag in zip(pieces[::2], [*pieces[1::2], None], strict=True):
        flush(text)
        if tag is None:
            break
        at = spans[-1].end_char if spans else 0
        inside = stack[-1].name if stack else None
        if tag == NO_MODE:
            if inside is not None:
                raise DataError(
                    f"markup {id!r}: {tag!r} before character {at} stands in mode {inside!r}"
                )
            current, started = Span(at, at), True
            continue
        mode, opens = tags[tag]
        if opens:
            if mode.inside != inside:
                raise DataError(
                    f"markup {id!r}: {tag!r} before character {at} stands in mode {inside!r}, "
                    f"allowed: {mode.inside!r}"
                )
            stack += [mode] if mode.close else []
            current, started = Span(at, at, mode.name), True
        else:
            if inside != mode.name:
                raise DataError(
                    f"markup {id!r}: {tag!r} before character {at} closes {mode.name!r}, "
                    f"but {inside!r} is open"
                )
            stack.pop()
            outer = stack[-1].name if stack else None
            current, started = Span(at, at, outer, resumes=outer is not None), False
    if stack:
        raise DataError(f"markup {id!r}: {stack[-1].open!r} is never closed")
    return Document(id=id, text="".join(texts), spans=tuple(spans), source=source)


def _spelled(scheme: Scheme, *, escaped: bool = False) -> re.Pattern[str]:
    """Match the `<` and backslashes of a spelled tag; with `escaped`, of an escaped one."""
    bodies = "|".join(re.escape(tag[1:]) for tag in (NO_MODE, *scheme.tags))
    slashes = r"\\(\\*)" if escaped else r"(\\*)"
    return re.compile(rf"<{slashes}(?=(?:{bodies}))")
