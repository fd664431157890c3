"""The page of a comparison or a run."""

from pathlib import Path

from rich.console import Console

from prealign.report.facts import differences, flat, origins
from prealign.report.figures import figures
from prealign.report.html import table_html, whole_page, words
from prealign.report.load import ArmRun, Study, load_study
from prealign.report.marked import kind, sample_html
from prealign.report.numbers import over_seeds, written
from prealign.report.tables import (
    MANY,
    by_seed,
    codes,
    conditions,
    headline,
    losses,
    print_table,
)
from prealign.report.verdict import missing, verdict
from prealign.runs import write_atomic

SAMPLES_SHOWN = 8
"""Of each arm and condition."""


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of the comparison or run in `folder` and return its path.

    Args:
        folder: What a recipe wrote, or a copy of it.
        out: The page; `report.html` in the folder if none is given.

    Raises:
        DataError: The folder holds neither, or a file in it is missing or malformed.
    """
    return _write(load_study(folder), out or folder / "report.html")


def publish(folder: Path, console: Console) -> Path:
    """Print the tables of the comparison in `folder`, write its page, and return its path.

    Raises:
        DataError: As `write_report`.
    """
    study = load_study(folder)
    print_table(study, console)
    path = _write(study, folder / "report.html")
    console.print(f"report: {path}", highlight=False, soft_wrap=True, markup=False)
    return path


def page(study: Study) -> str:
    """Return the page as HTML."""
    body = "".join(
        [
            _top(study),
            table_html(headline(study), "Over several seeds: the mean, and from the least to the "
                   "greatest. Of one seed: with its 95 % bootstrap interval over samples or "
                   "documents. \"-\": not measured."),
            _figures(study),
            table_html(by_seed(study)),
            table_html(conditions(study), "The same models, asked differently: where the unwanted "
                   "leaks out when no tag, the other tag or a bad prompt comes first."),
            table_html(losses(study), "In nats per byte of text; tags are context and are not "
                   "counted."),
            table_html(codes(study)),
            _samples(study),
            _origin(study),
        ]
    )  # fmt: skip
    return whole_page(study.title, body)


def _write(study: Study, path: Path) -> Path:
    write_atomic(path, page(study))
    return path


def _top(study: Study) -> str:
    question = f'<p class="question">{words(study.question)}</p>' if study.question else ""
    said = "".join(
        f"<p><strong>{words(one.main)}</strong> {words(one.more)}</p>" for one in verdict(study)
    )
    warning = f'<p class="warning">{words(missing(study))}</p>' if missing(study) else ""
    shown = "verdict many" if len(study.arms) > MANY else "verdict"
    notes = "".join(f"<li>{words(note)}</li>" for note in study.notes)
    return (
        f"<header><h1>{words(study.title)}</h1>{question}"
        f'<div class="{shown}">{said}</div>{warning}'
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + "</header>"
    )


def _figures(study: Study) -> str:
    shown = "".join(
        f"<figure><figcaption>{words(one.caption)}</figcaption>{one.plot}"
        f'<p class="note">{words(one.note)}</p></figure>'
        for one in figures(study)
    )
    return f'<section><h2>Curves and trade-offs</h2><div class="plots">{shown}</div></section>'


def _samples(study: Study) -> str:
    """Return samples of every arm under every condition, with a filter."""
    runs = {arm: _with_samples(study.of(arm)) for arm in study.arms}
    modes = dict.fromkeys(
        span.mode for run in runs.values() for one in run.samples for span in one.spans if span.mode
    )
    groups, options = [], []
    for arm, run in runs.items():
        found = [sample.condition for sample in run.samples]
        for condition in dict.fromkeys([run.condition, *run.conditions, *found]):
            options.append(f"<option>{words(f'{arm}: {condition}')}</option>")
            groups.append(_group(study, run, condition))
    keys = "".join(f'<li><span class="m-{kind(mode)}">{words(mode)}</span></li>' for mode in modes)
    chosen = (
        '<form class="filter" hidden><label>Show <select id="group"><option value="">all</option>'
        f"{''.join(options)}</select></label> "
        '<label><input type="checkbox" id="found"> with findings only</label></form>'
    )
    legend = f'<ul class="legend">{keys}<li><u>finding</u></li></ul>'
    note = f"The first {SAMPLES_SHOWN} as they were drawn, not chosen. Point at an underlined place"
    return (
        f'<section id="samples"><h2>Samples</h2><p class="note">{note} to read what was found '
        f"there.</p>{legend}{chosen}{''.join(groups)}</section>"
    )


def _with_samples(runs: list[ArmRun]) -> ArmRun:
    """Return the first run that has samples."""
    return next((run for run in runs if run.samples), runs[0])


def _group(study: Study, run: ArmRun, condition: str) -> str:
    found = [sample for sample in run.samples if sample.condition == condition]
    shown = found[:SAMPLES_SHOWN]
    mean = over_seeds(study.of(run.arm), "mean_score", condition)
    name = f"{run.arm}: {condition}"
    about = f"mean score {written(mean)}; {len(shown)} of {len(found):,} of seed {run.seed}"
    opened = " open" if condition == run.condition else ""
    body = "".join(sample_html(sample) for sample in shown) or '<p class="none">none yet</p>'
    return (
        f'<details class="group" data-group="{words(name)}"{opened}><summary>{words(name)} '
        f'<span class="note">{words(about)}</span></summary>{body}</details>'
    )


def _origin(study: Study) -> str:
    """Return where the numbers are from: judge, machine, versions, corpus, settings."""
    what = ", ".join(filter(None, [study.score_name, study.score_unit, study.score_what]))
    modes = study.scheme.modes if study.scheme is not None else ()
    tags = "; ".join(f"{mode.name}: {' '.join(mode.tags)}" for mode in modes)
    apart = ("commit", "machine", "python", "versions")
    rows = [f"<tr><th scope='row'>score</th><td>{words(what)}</td></tr>"]
    if tags:
        rows.append(f"<tr><th scope='row'>tags</th><td>{words(tags)}</td></tr>")
    if study.guard:
        rows.append(f"<tr><th scope='row'>guard</th><td>{words(study.guard)}</td></tr>")
    for name, values in origins(study):
        several = len(values) > 1 and name in apart
        note = "<p class='warning'>the runs differ</p>" if several else ""
        cell = "<br>".join(words(value) for value in values)
        rows.append(f"<tr><th scope='row'>{words(name)}</th><td>{cell}{note}</td></tr>")
    parts = [f'<div class="scroll"><table class="facts">{"".join(rows)}</table></div>']
    differing = [[path, *values] for path, values in differences(study)]
    if differing:
        parts.append("<h3>Settings that differ between arms</h3>")
        parts.append(_facts(differing, ["setting", *study.arms]))
    corpus = [[path, value] for path, value in flat(dict(study.corpus)).items() if path]
    settings = flat(study.config.get("settings", {}))
    parts.append("<h3>Corpus</h3>")
    parts.append(_facts(corpus, ["count", ""]) if corpus else '<p class="none">not recorded</p>')
    parts.append(
        "<details><summary>All settings</summary>"
        + _facts([[path, value] for path, value in settings.items()], ["setting", "value"])
        + "</details>"
    )
    return f"<section><h2>How it was made</h2>{''.join(parts)}</section>"


def _facts(rows: list[list[str]], head: list[str]) -> str:
    columns = "".join(f'<th scope="col">{words(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{words(row[0])}</th>'
        + "".join(f"<td>{words(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table class="facts"><thead><tr>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
