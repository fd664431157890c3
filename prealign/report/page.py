"""One standalone HTML page per comparison: it opens from disk and fetches nothing."""

import json
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console

from prealign.report.load import Study, load_study
from prealign.report.plots import Line, bar_plot, line_plot
from prealign.report.style import STYLE
from prealign.report.tables import (
    Table,
    codes,
    headline,
    leakage,
    losses,
    over_seeds,
    print_table,
    verdict,
)
from prealign.runs import write_atomic

SAMPLES_SHOWN = 6
CODES_SHOWN = 12


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of the comparison in `folder` and return its path (report.html there).

    Raises:
        DataError: The folder holds no comparison.
    """
    study = load_study(folder)
    path = out or folder / "report.html"
    write_atomic(path, page(study))
    return path


def publish(folder: Path, console: Console) -> Path:
    """Print the comparison's table, write its page, and return the page's path.

    Raises:
        DataError: The folder holds no comparison.
    """
    print_table(load_study(folder), console)
    path = write_report(folder)
    console.print(f"report: {path}", highlight=False, soft_wrap=True)
    return path


def page(study: Study) -> str:
    """Return the page as HTML."""
    sections = [
        f"<h1>{escape(study.title)}</h1><p class='question'>{escape(study.question)}</p>",
        f"<p class='verdict'>{escape(verdict(study))}</p>",
        _unfinished(study),
        _table(headline(study), note="Over seeds: mean (least to greatest); of one seed: with its "
               "95 % bootstrap interval over samples or documents."),
        "<h2>How it went</h2><div class='plots'>", _plots(study), "</div>",
        "<h2>Leakage</h2>",
        _table(leakage(study), note="Pressure: probability of a denied tag before the mask, per "
               "sampled token."),
        _table(losses(study)),
        _table(codes(study)),
        "<h2>Samples</h2>", _samples(study),
        "<h2>How it was made</h2>", _origin(study),
    ]  # fmt: skip
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(study.title)}</title><style>{STYLE}</style>"
        f"<main>{''.join(sections)}</main></html>\n"
    )


def _unfinished(study: Study) -> str:
    names = [f"{run.arm}, seed {run.seed}" for run in study.runs if not run.finished]
    if not names:
        return ""
    return f"<p class='warning'>Not finished: {escape('; '.join(names))}.</p>"


def _table(table: Table, *, note: str = "") -> str:
    if not table.rows:
        return ""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    caption = f"<caption>{escape(table.title)}</caption>"
    foot = f"<p class='note'>{escape(note)}</p>" if note else ""
    return f"<div class='scroll'><table>{caption}<tr>{head}</tr>{rows}</table></div>{foot}"


def _plots(study: Study) -> str:
    colours = {arm: i for i, arm in enumerate(study.arms)}
    training, score, loss, pareto = [], [], [], []
    for run in study.runs:
        at = colours[run.arm]
        rows = [row for row in run.metrics if row.get("text_nats") is not None]
        training.append(
            Line(run.arm, at, *_smooth([(r["text_tokens"], r["text_nats"]) for r in rows]))
        )
        score.append(Line(run.arm, at, *_columns(run.curve("mean_score"))))
        loss.append(Line(run.arm, at, *_columns(run.curve("loss"))))
        points, losses_ = run.number("mean_score"), run.number("loss")
        if points and losses_:
            low, high = points.low or points.value, points.high or points.value
            pareto.append(Line(run.arm, at, [losses_.value], [points.value], [low], [high]))
    bars = codes(study).rows
    series = [(arm, [_number(row[i + 1]) for row in bars]) for i, arm in enumerate(study.arms)]
    order = sorted(range(len(bars)), key=lambda i: -max(values[i] for _, values in series))
    shown = order[:CODES_SHOWN]
    figures = [
        line_plot(score, x="text tokens", y=study.score_unit, title="Score of samples", zero=True),
        line_plot(pareto, x="held-out loss, nats per byte", y=study.score_unit,
                  title="Score against loss", zero=True, joined=False),
        line_plot(loss, x="text tokens", y="held-out loss, nats per byte", title="Held-out loss"),
        line_plot(training, x="text tokens", y="training loss, nats per text token",
                  title="Training loss"),
        bar_plot([bars[i][0] for i in shown], [(n, [v[i] for i in shown]) for n, v in series],
                 y="per 1000 characters", title="Findings by code"),
    ]  # fmt: skip
    names = ["Score of samples (lower is better)", "Score against held-out loss (down and left is "
             "better)", "Held-out loss", "Training loss", "Findings by code"]  # fmt: skip
    pairs = zip(names, figures, strict=True)
    return "".join(f"<figure><figcaption>{n}</figcaption>{f}</figure>" for n, f in pairs)


def _columns(points: list[tuple[int, float]]) -> tuple[list[float], list[float]]:
    return [float(x) for x, _ in points], [y for _, y in points]


def _smooth(points: list[tuple[int, float]]) -> tuple[list[float], list[float]]:
    """Return at most 120 points, each the mean of its neighbours."""
    step = max(1, len(points) // 120)
    groups = [points[i : i + step] for i in range(0, len(points), step)]
    xs = [sum(x for x, _ in group) / len(group) for group in groups]
    return xs, [sum(y for _, y in group) / len(group) for group in groups]


def _number(cell: str) -> float:
    return 0.0 if cell == "-" else float(cell.split(" ")[0])


def _samples(study: Study) -> str:
    """Return samples of each arm's first seed, under every condition."""
    parts = []
    for arm in study.arms:
        run = study.of(arm)[0]
        for condition in run.conditions():
            rows = [row for row in run.samples if row["condition"] == condition][:SAMPLES_SHOWN]
            mean = over_seeds(study.of(arm), "mean_score", condition)
            about = f", mean score {mean.value:.3g}" if mean else ""
            opened = " open" if condition == run.condition else ""
            body = "".join(_sample(row) for row in rows) or "<p class='none'>none yet</p>"
            parts.append(
                f"<details{opened}><summary>{escape(arm)}: {escape(condition)}"
                f"{escape(about)}</summary>{body}</details>"
            )
    return "".join(parts)


def _sample(row: dict[str, Any]) -> str:
    score = "not scored" if row["score"] is None else f"score {row['score']:.3g}"
    return (
        f"<div class='sample'><span class='note'>seed {row['seed']}, {score}</span>"
        f"<pre>{marked(row)}</pre></div>"
    )


def marked(row: dict[str, Any]) -> str:
    """Return a sample's text as HTML: spans coloured by mode, findings underlined."""
    text, findings = row["text"], row["findings"]
    cuts = {0, len(text)}
    for piece in (*row["spans"], *findings):
        cuts |= {max(0, min(piece["start"], len(text))), max(0, min(piece["end"], len(text)))}
    ends = sorted(cuts)
    parts = []
    for start, end in pairwise(ends):
        modes = [s["mode"] for s in row["spans"] if s["start"] <= start < s["end"]]
        said = [f for f in findings if f["start"] <= start < f["end"]]
        kind = f"m-{modes[0]}" if modes and modes[0] else "m-none"
        piece = f"<span class='{escape(kind)}'>{escape(text[start:end])}</span>"
        if said:
            title = "; ".join(f"{f['code']} {f['message']}" for f in said)
            piece = f'<u title="{escape(title)}">{piece}</u>'
        parts.append(piece)
    return "".join(parts)


def _origin(study: Study) -> str:
    """Return settings, versions, commit, machine and corpus."""
    environment = study.config.get("environment", {})
    facts = [
        ("score", f"{study.score_name}, {study.score_unit} (version {study.score_version})"),
        ("command", environment.get("command", "")),
        ("commit", environment.get("commit", "")),
        ("date", environment.get("date", "")),
        ("machine", environment.get("machine", "")),
        ("versions", ", ".join(f"{k} {v}" for k, v in environment.get("versions", {}).items())),
        *(("note", note) for note in study.notes),
    ]
    rows = "".join(f"<tr><td>{escape(k)}</td><td>{escape(str(v))}</td></tr>" for k, v in facts)
    blocks = [
        ("Corpus", study.corpus),
        ("Settings", study.config.get("settings", {})),
    ]
    details = "".join(
        f"<details><summary>{name}</summary>"
        f"<pre>{escape(json.dumps(data, indent=1))}</pre></details>"
        for name, data in blocks
    )
    return f"<div class='scroll'><table class='facts'>{rows}</table></div>{details}"
