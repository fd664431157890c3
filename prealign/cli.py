"""The command line. Thin: each command imports what it needs when it runs, so help is quick."""

import importlib
import pkgutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from prealign.errors import ConfigError, DataError, PrealignError

app = typer.Typer(
    help="Raise language models to a character: tag, pretrain, guard, measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

guard = typer.Typer(help="Look after the border between text and tags.", no_args_is_help=True)
app.add_typer(guard, name="guard")
corpus = typer.Typer(help="Make a corpus, and hand it on with its card.", no_args_is_help=True)
app.add_typer(corpus, name="corpus")
models = typer.Typer(help="Hand a saved model on: its card.", no_args_is_help=True)
app.add_typer(models, name="model")

SIZES = ("tiny", "small", "full")
Out = Annotated[Path | None, typer.Option(help="The folder to write to.")]
Push = Annotated[str | None, typer.Option(help="OWNER/NAME on the hub; none: no upload.")]
Public = Annotated[bool, typer.Option("--public", help="A new repository can be seen by all.")]


@app.command()
def run(
    recipe: Annotated[
        str, typer.Argument(help="A name from `prealign recipes`, or module:function.")
    ],
    assignments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="size=tiny|small|full, and any setting."),
    ] = None,
    out: Out = None,
) -> None:
    """Run a recipe; run the same command again to go on after an interruption."""
    from prealign.config import override

    values = dict(_pair(assignment) for assignment in assignments or [])
    size = values.pop("size", None)
    if size not in (None, *SIZES):
        raise ConfigError(f"size={size}: expected one of {', '.join(SIZES)}")
    make = _find(recipe)
    what = make(size) if size else make()
    what = override(what, [f"{key}={value}" for key, value in values.items()])
    name = recipe.rpartition(":")[0].rpartition(".")[2] or recipe.rpartition(".")[2]
    what(out or Path("runs") / (f"{name}-{size}" if size else name))


@app.command()
def recipes() -> None:
    """List the recipes, with what each one shows."""
    import prealign.recipes

    for module in pkgutil.iter_modules(prealign.recipes.__path__):
        source = Path(prealign.recipes.__path__[0]) / f"{module.name}.py"
        if "\ndef recipe(" in source.read_text():
            typer.echo(f"{module.name:<14} {_first_sentence(source)}")


@app.command()
def annotate(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Folders of source code, or .txt, .md, .jsonl, .parquet files."),
    ],
    out: Annotated[Path, typer.Option(help="The folder for the Parquet shards.")],
    scorer: Annotated[
        str, typer.Option(help="module:Class of a scorer.")
    ] = "prealign.score.pep8:Pycodestyle",
    segmenter: Annotated[
        str, typer.Option(help="module:Class of a segmenter.")
    ] = "prealign.score.segment:Lines",
    max_good: Annotated[
        float, typer.Option(help="Segments that score above this are tagged bad.")
    ] = 0.0,
    processes: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
) -> None:
    """Segment, score and tag documents into Parquet shards; goes on where it was after a kill."""
    from prealign.corpora.source import read_path
    from prealign.score.annotate import annotate as annotate_documents
    from prealign.score.tag import Threshold

    judge = _load(scorer)()
    report = annotate_documents(
        (document for path in inputs for document in read_path(path)),
        out,
        segmenter=_load(segmenter)(),
        scorer=judge,
        tagger=Threshold(score=judge.name, max_good=max_good),
        source={"inputs": [path.name for path in inputs]},
        processes=processes,
    )
    typer.echo(str(report))


@app.command()
def sample(
    model: Annotated[Path, typer.Argument(help="A model folder that prealign saved.")],
    assignments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="temperature, top_p, max_text_tokens."),
    ] = None,
    mode: Annotated[str | None, typer.Option(help="The mode to write in; none: no tag.")] = None,
    prompt: Annotated[str, typer.Option(help="Text that comes first; it can hold no tag.")] = "",
    count: Annotated[int, typer.Option(min=1, help="How many samples.")] = 3,
    once: Annotated[
        bool, typer.Option("--once", help="Write the tag once, not at each line.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The samples' seed.")] = 0,
) -> None:
    """Write texts with a saved model, behind the guard."""
    from prealign.config import override
    from prealign.evals.samples import Condition, write_samples
    from prealign.models.files import load_model
    from prealign.models.sample import Sampling
    from prealign.text.document import Document

    settings = override(Sampling(max_text_tokens=200), assignments or [])
    loaded = load_model(model)
    prompts = (Document("--prompt", prompt),) if prompt else ()
    condition = Condition(name="command", mode=mode, again=mode is not None and not once)
    writings = write_samples(
        loaded.model, loaded.vocabulary, condition, settings, count=count, seed=seed,
        prompts=prompts, cut=False,
    )  # fmt: skip
    for writing in writings:
        typer.echo(f"--- seed {writing.seed}, pressure {writing.pressure:.4f}")
        typer.echo(writing.text)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders that a recipe wrote.")],
) -> None:
    """Print a run's table and write its page, report.html, into its folder."""
    from rich.console import Console

    from prealign.report.page import publish

    for folder in runs:
        publish(folder, Console())


@app.command()
def calibrate(
    file: Annotated[Path, typer.Argument(help="Labelled texts: CSV, TSV or JSONL, also .gz.")],
    scorer: Annotated[str, typer.Option(help="module:Class of a scorer.")],
    text: Annotated[str, typer.Option(help="The column of the text.")] = "text",
    label: Annotated[str, typer.Option(help="The column of the label.")] = "label",
    bad: Annotated[str, typer.Option(help="Labels that are bad, separated by commas.")] = "1",
    min_precision: Annotated[
        float | None, typer.Option(help="Best recall at this precision; else the best F1.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("calibration.html"),
) -> None:
    """Hold a scorer against labels: where to put its threshold, and what its scores mean."""
    from prealign.corpora.labels import Labelled
    from prealign.recipes.calibration import calibrate as hold

    labels = tuple(one.strip() for one in bad.split(",") if one.strip())
    documents = list(Labelled(path=file, text=text, label=label, bad=labels)())
    found = hold(documents, _load(scorer)(), out, file=file.name, min_precision=min_precision)
    chosen, checked = found.chosen, found.checked
    typer.echo(
        f"max_good={chosen.max_good!r}: precision {checked.precision:.3f}, recall "
        f"{checked.recall:.3f} on the half it was not chosen on ({chosen.precision:.3f}, "
        f"{chosen.recall:.3f} on the other); {found.unjudged} of {found.texts} texts could not be "
        f"judged and are left out\nreport: {out}"
    )


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A Parquet shard, or a samples.jsonl.")],
    limit: Annotated[int, typer.Option(min=1, help="Documents at most.")] = 5,
) -> None:
    """Print documents with their spans coloured by mode."""
    from rich.console import Console

    from prealign.report.show import read_any, show_documents

    show_documents(read_any(file), Console(), limit=limit)


@corpus.command()
def card(
    folder: Annotated[Path, typer.Argument(help="Shards: annotated, synthesised or plain.")],
    out: Annotated[Path | None, typer.Option(help="The folder to write; none: FOLDER-hub.")] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(help="NAME=LICENCE of a source; '*=LICENCE': of all the others."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the card; none: the folder's name.")] = None,
    push: Push = None,
    public: Public = False,
) -> None:
    """Write a corpus in the hub's layout: a card of sources, licences, modes, scores; its data."""
    from prealign.corpora.card.export import export
    from prealign.corpora.card.licences import licences_of
    from prealign.corpora.card.send import send, summary
    from prealign.hub.push import check_repo

    if push is not None:
        check_repo(push)
    whole, licences = folder.resolve(), licences_of(source or ())
    done = export(folder, out or whole.with_name(f"{whole.name}-hub"), licences, title=title)
    typer.echo(summary(done, licences))
    if push is not None:
        typer.echo(send(done, licences, push, public=public))


@models.command("card")
def model_card(
    model: Annotated[Path, typer.Argument(help="A model folder that prealign saved.")],
    run: Annotated[
        Path | None, typer.Option(help="The run it comes from; none: the one it lies in.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="None: as it is.")] = None,
    licence: Annotated[str | None, typer.Option(help="Of the model; none: as it is.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="What it was trained from, OWNER/NAME on the hub.")
    ] = None,
    push: Push = None,
    public: Public = False,
) -> None:
    """Write a saved model's card anew: training, results, scheme, policies, limits; upload it."""
    from prealign.hub.push import check_repo
    from prealign.recipes.cards import send_model, write_card

    if push is not None:
        check_repo(push)
    made = write_card(model, run=run, title=title, licence=licence, base_model=base_model)
    typer.echo(f"{model / 'README.md'}: licence {made.licence or 'not stated (--licence)'}")
    if push is not None:
        typer.echo(send_model(model, push, made, public=public))


@guard.command()
def audit(
    path: Annotated[
        str, typer.Argument(help="A model or tokenizer folder, a tokenizer.json, or hub:ORG/NAME.")
    ],
    tag: Annotated[
        list[str] | None, typer.Option(help="A tag to ask about; none: all special and added ones.")
    ] = None,
    defence: Annotated[
        str,
        typer.Option(
            help="What your code does with untrusted text: nothing, escape (of the tags' "
            "literals), or split (split_special_tokens, on a tokenizer that it shares with no one)."
        ),
    ] = "nothing",
) -> None:
    """Say whether text can become a tag, why, and how to mend it; exit code 1 if it can."""
    from rich.console import Console

    from prealign.guard.audit import audit as look
    from prealign.guard.audit_report import defence_of
    from prealign.guard.audit_show import show_audit

    assumed = defence_of(defence)
    found = look(path, tag or ())
    show_audit(found, assumed, Console())
    sys.exit(0 if found.verdict(assumed) == "safe" else 1)


@guard.command()
def excise(
    model: Annotated[Path, typer.Argument(help="A model folder that prealign saved.")],
    mode: Annotated[str, typer.Option(help="The mode to cut out, with those inside it.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not be there.")],
) -> None:
    """Cut a mode's tags out of the scheme and the weights, so that they cannot be written."""
    from prealign.models.excise import excise_folder

    vocabulary = excise_folder(model, mode, out).vocabulary
    left = ", ".join(one.name for one in vocabulary.scheme.modes)
    typer.echo(f"{out}: {vocabulary.size} ids, modes: {left}; serve it under a lock on one of them")


@corpus.command()
def synthesize(
    out: Annotated[Path, typer.Option(help="The folder to write to; run again to go on.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE.toml] [KEY=VALUE]...",
            help="Settings such as seed, max_tokens, max_cost, writer.url, asking.concurrency.",
        ),
    ] = None,
    step: Annotated[
        list[str] | None,
        typer.Option(help='A step after the file\'s, such as misbehaved or "balance key=persona".'),
    ] = None,
    inputs: Annotated[
        list[Path] | None, typer.Option("--input", help="A folder of shards to begin with.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again about what got no answer.")
    ] = False,
) -> None:
    """Let a language model write a corpus, step by step, and sift it."""
    from dataclasses import replace

    from prealign.recipes.synthesis_settings import read_table, synthesis_of

    given = list(settings or [])
    file = Path(given.pop(0)) if given and "=" not in given[0] else None
    table = read_table(file, given, step or (), inputs or ())
    pipeline = replace(synthesis_of(table, _load), retry_failed=retry_failed)
    for folder in pipeline(out):
        typer.echo(folder)


@app.command()
def serve(  # noqa: PLR0913 - its options are the command line
    model: Annotated[Path, typer.Argument(help="A model folder that prealign saved.")],
    assignments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="hidden, rows, room, limits.max_body, vllm.gpu_memory and the like.",
        ),
    ] = None,
    policy: Annotated[str, typer.Option(help="What the model may write.")] = "lock",
    mode: Annotated[str | None, typer.Option(help="The mode that it writes in.")] = None,
    also: Annotated[
        list[str] | None, typer.Option(help="A policy that clients may ask for; none laxer.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Keys, one a line; admin:KEY may also switch policies.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="What runs the model: transformers or vllm.")
    ] = "transformers",
) -> None:
    """Serve a model behind the guard: OpenAI's API, and a page to try it."""
    from prealign.config import override
    from prealign.serve.access import load_keys
    from prealign.serve.run import Serving

    if engine not in ("transformers", "vllm"):
        raise ConfigError(f"engine={engine!r}: allowed: transformers, vllm")
    if engine == "vllm":
        from prealign.serve.run_vllm import serve as serve_model
    else:
        from prealign.serve.run import serve as serve_model

    serving = override(Serving(policy=policy, mode=mode, also=tuple(also or ())), assignments or [])
    keys = load_keys(api_key_file) if api_key_file else None
    serve_model(model, serving, host=host, port=port, keys=keys)


def main() -> None:
    """Run the command line; a mistake of the user's is one line and exit code 2."""
    try:
        app()
    except PrealignError as error:
        typer.echo(f"prealign: {error}", err=True)
        sys.exit(2)


def _pair(assignment: str) -> tuple[str, str]:
    key, sep, value = assignment.partition("=")
    if not sep:
        raise ConfigError(f"{assignment!r}: expected KEY=VALUE, for example size=tiny")
    return key, value


def _find(recipe: str) -> Any:
    """Return the function that makes the recipe's run."""
    if ":" in recipe:
        return _load(recipe)
    name = recipe if "." in recipe else f"prealign.recipes.{recipe}"
    try:
        return _load(f"{name}:recipe")
    except DataError:
        import prealign.recipes

        names = [module.name for module in pkgutil.iter_modules(prealign.recipes.__path__)]
        raise ConfigError(
            f"recipe {recipe!r}: there is none (there are: {', '.join(names)}; "
            "or give your own as module:function)"
        ) from None


def _load(path: str) -> Any:
    """Return what `module:name` names."""
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name and not module.startswith(error.name):
            raise
        raise DataError(f"{path!r}: there is no module {module!r}; give module:name") from None
    except AttributeError:
        raise DataError(f"{path!r}: module {module!r} has no {name!r}; give module:name") from None


def _first_sentence(source: Path) -> str:
    text = source.read_text().lstrip().removeprefix('"""')
    return " ".join(text[: text.index(".") + 1].split())
