"""The settings of a pipeline of synthesis, from a small TOML file and assignments.

    seed = 0
    max_cost = 2.5                  # or max_tokens; the whole pipeline's
    price_per_million = 0.4

    [writer]                        # or folder = "model", of a model in this process
    url = "http://localhost:8000/v1"
    model = "NAME"

    [[steps]]
    do = "misbehaved"

    [[steps]]
    do = "deduplicate"

A step without `from` reads all folders that no step before it has read, and `inputs`. Paths are
seen from where the command runs.
"""

import dataclasses
import difflib
import shlex
import tomllib
import types
import typing
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from prealign.ask.answer import Writer
from prealign.ask.rating import Rubric
from prealign.ask.server import OpenAIServer
from prealign.corpora.refine.balance import Balance
from prealign.corpora.refine.contamination import Decontaminate
from prealign.corpora.refine.duplicates import Deduplicate
from prealign.corpora.refine.judge import BOILERPLATE, Filter, Judged
from prealign.corpora.synthesis.grids import misbehaved_items, role_model_items
from prealign.corpora.synthesis.quote import COMMENT_ON_IT, Quote
from prealign.corpora.synthesis.rate import Rate
from prealign.corpora.synthesis.revise import Revise, constitution
from prealign.corpora.synthesis.run import Asking
from prealign.corpora.synthesis.step import grid
from prealign.corpora.synthesis.write import (
    FICTION,
    MISBEHAVED,
    MORAL_EDUCATION,
    REFUSE,
    REPHRASE,
    WriteDialogue,
    WriteText,
)
from prealign.errors import ConfigError
from prealign.models.adopt import SMOLLM2, packaged_folder
from prealign.models.writer import LocalWriter, digest
from prealign.recipes.synthesis import Chosen, Stage, Synthesis

Table = dict[str, Any]
Load = Callable[[str], Any]
"""Returns the class that `module:Class` names."""
TOP = ("seed", "max_tokens", "max_cost", "price_per_million", "tasks", "shard_items", "inputs",
       "writer", "judge", "asking", "steps")  # fmt: skip
GRIDS: dict[str, tuple[Any, Any]] = {
    "misbehaved": (MISBEHAVED, misbehaved_items),
    "fiction": (FICTION, role_model_items),
}
OF_DOCUMENTS: dict[str, Any] = {
    "rephrase": REPHRASE,
    "refuse": REFUSE,
    "moral-education": MORAL_EDUCATION,
}
REFINES: dict[str, Any] = {
    "filter": Filter,
    "deduplicate": Deduplicate,
    "decontaminate": Decontaminate,
    "balance": Balance,
}
OWN: dict[str, Any] = {"text": WriteText, "dialogue": WriteDialogue}
DOES = (*GRIDS, *OWN, *OF_DOCUMENTS, "quote", "revise", "rate", "judge", *REFINES)
JUDGING: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0.0}
"""How a model is asked for a rating, unless the settings say otherwise."""
OF_STAGE = ("do", "name", "from", "copies")


def read_table(
    file: Path | None,
    assignments: Sequence[str],
    steps: Sequence[str],
    inputs: Sequence[Path] = (),
) -> Table:
    """Return the settings of a file with assignments, more steps and more inputs put in.

    Args:
        file: TOML; None: there is none.
        assignments: Such as `writer.url=http://localhost:8000/v1`; a value that is no TOML is text.
        steps: Such as `misbehaved` or `balance key=persona`, after the file's.
        inputs: Folders of shards, after the file's.

    Raises:
        ConfigError: The file cannot be read, or an assignment, a step or the inputs have another
            form.
    """
    table: Table = {}
    if file is not None:
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{file}: cannot be read as settings ({error})") from error
    _assign(table, assignments)
    if not isinstance(table.setdefault("steps", []), list):
        raise ConfigError("steps: expected tables, each begun with [[steps]]")
    for step in steps:
        try:
            do, *own = shlex.split(step) or [""]
        except ValueError as error:
            raise ConfigError(f"step {step!r}: cannot be parted into words ({error})") from error
        table["steps"].append(_assign({"do": do}, own))
    if inputs:
        table["inputs"] = [*_strings(table.get("inputs", []), "inputs"), *map(str, inputs)]
    return table


def synthesis_of(table: Mapping[str, Any], load: Load) -> Synthesis:
    """Return the pipeline that a table of settings describes.

    Raises:
        ConfigError: A setting is unknown, lacking, or of another type; it says which.
    """
    _check_known(table, TOP, "settings")
    asking = _made(Asking, {
        **_table(table.get("asking", {}), "asking"),
        **{name: table[name] for name in ("max_tokens", "price_per_million") if name in table},
    }, "asking")  # fmt: skip
    own = {name: table[name] for name in ("seed", "max_cost", "tasks", "shard_items")
           if name in table}  # fmt: skip
    made = {**own, "stages": _stages(table, load), "asking": asking}
    whole: Synthesis = _made(Synthesis, made, "settings")
    return whole


def _stages(table: Mapping[str, Any], load: Load) -> tuple[Stage, ...]:
    steps = [_table(step, f"step {number}") for number, step in enumerate(table["steps"], start=1)]
    if not steps:
        raise ConfigError(f"there are no steps; name one or more of: {', '.join(DOES)}")
    times: Counter[str] = Counter()
    free = [Path(path) for path in _strings(table.get("inputs", []), "inputs")]
    stages: list[Stage] = []
    for number, step in enumerate(steps, start=1):
        do = step.get("do", "")
        where = f"step {number} ({do or 'no name'})"
        if do not in DOES:
            raise ConfigError(f"{where}: do={do!r}: expected one of {', '.join(DOES)}")
        times[do] += 1
        name = str(step.get("name", do if times[do] == 1 else f"{do}-{times[do]}"))
        if not name or "/" in name or name.startswith("."):
            raise ConfigError(f"{where}: name={name!r}: expected the plain name of a folder")
        stage = _stage(table, step, load, where)
        if stage.grid is None:
            if "from" in step:
                takes = [Path(path) for path in _strings(step["from"], f"{where}: from")]
            else:
                takes = free
            if not takes:
                raise ConfigError(f"{where}: has nothing to read; name folders by from or inputs")
            stage = replace(stage, takes=tuple(takes))
            free = [path for path in free if path not in takes]
        stages.append(replace(stage, name=name))
        free.append(Path(name))
    return tuple(stages)


def _stage(table: Mapping[str, Any], step: Table, load: Load, where: str) -> Stage:
    do = step["do"]
    own = {name: value for name, value in step.items() if name not in OF_STAGE}
    copies = step.get("copies", 1)
    if type(copies) is not int or copies < 1:
        raise ConfigError(f"{where}: copies={copies!r}: expected a number from 1")
    if do in REFINES or do == "judge":
        if "copies" in step:
            raise ConfigError(f"{where}: has no setting 'copies'")
        return Stage(name=do, step=_refining(do, own, load, where))
    asks = do != "quote" or own.pop("ask", False)
    writers = _writers(table, "writer") if asks else ()
    if do in GRIDS or do in OWN:
        axes = own.pop("axes", None)
        if do in OWN:
            made = _made(OWN[do], {"name": step.get("name", do), **own}, where)
            if axes is None:
                return Stage(name=do, step=made, copies=copies, writers=writers)
        else:
            made, items = GRIDS[do]
            made = replace(made, **_checked(type(made), own, where))
            if axes is None:
                return Stage(name=do, step=made, grid=partial(items, copies), writers=writers)
        lists = {
            key: _strings(values, f"{where}: axes.{key}")
            for key, values in _table(axes, where).items()
        }
        return Stage(name=do, step=made, grid=partial(grid, do, copies, **lists), writers=writers)
    if do == "rate":
        made = _rate(own, where)
        judges = _writers(table, "judge") if "judge" in table else tuple(
            replace(writer, **JUDGING)  # type: ignore[type-var]
            for writer in writers
        )  # fmt: skip
        return Stage(name=do, step=made, writers=judges)
    if do == "quote":
        made = _made(Quote, {"template": COMMENT_ON_IT if asks else None, **own}, where)
        return Stage(name=do, step=made, copies=copies, writers=writers)
    if do == "revise":
        file = own.pop("constitution", None)
        if not isinstance(file, str):
            raise ConfigError(f"{where}: names no constitution, a file with a principle a line")
        made = _made(Revise, {**own, "principles": constitution(Path(file))}, where)
        return Stage(name=do, step=made, copies=copies, writers=writers)
    bands = {"rephrase": "rephrase", "refuse": "refuse"}
    chosen = None
    if do in bands:
        keys = [key for key in ("score", "rephrase_above", "refuse_above") if key in own]
        chosen = _made(Chosen, {"band": bands[do], **{key: own.pop(key) for key in keys}}, where)
    base = OF_DOCUMENTS[do]
    made = replace(base, **_checked(type(base), own, where))
    return Stage(name=do, step=made, chosen=chosen, copies=copies, writers=writers)


def _refining(do: str, own: Table, load: Load, where: str) -> Any:
    if do == "judge":
        named = own.pop("scorer", None)
        if not isinstance(named, str):
            raise ConfigError(f"{where}: names no scorer, as module:Class")
        return _made(Judged, {"scorer": load(named)(), **own}, where)
    if do == "filter" and own.pop("boilerplate", False):
        own["patterns"] = [*own.get("patterns", []), *BOILERPLATE]
    return _made(REFINES[do], own, where)


def _rate(own: Table, where: str) -> Any:
    file = own.pop("rubric", None)
    bounds: Table = {key: own.pop(key) for key in ("lowest", "highest") if key in own}
    if file is not None:
        try:
            bounds["text"] = Path(str(file)).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}: the rubric cannot be read ({error})") from error
    return _made(Rate, {"rubric": _made(Rubric, bounds, where), **own}, where)


def _writers(table: Mapping[str, Any], key: str) -> tuple[Writer, ...]:
    own = dict(_table(table.get(key, {}), key))
    if not own.keys() & {"url", "urls", "model"}:  # in this process
        places = _strings(own.pop("devices", ["cpu"]), f"{key}.devices")
        own["path"] = own.pop("folder", SMOLLM2)
        own = {**({} if key == "writer" else JUDGING), **own}
        if own["path"] == SMOLLM2:
            packaged_folder()  # says what to install
        elif not Path(str(own["path"])).is_dir():
            raise ConfigError(
                f"{key}.folder={own['path']}: is no folder of a model, nor {SMOLLM2!r}"
            )
        else:
            own["weights"] = digest(Path(str(own["path"])))
        return tuple(_made(LocalWriter, {**own, "device": place}, key) for place in places)
    if "url" not in own and "urls" not in own:
        raise ConfigError(
            f"{key}: names a model and no server; give {key}.url, or {key}.folder for one in this "
            "process"
        )
    urls = _strings(own.pop("urls", None) or [own.pop("url")], f"{key}.urls")
    defaults = {"max_new_tokens": 1024, "temperature": 1.0} if key == "writer" else JUDGING
    fixed = {**defaults, **own, "tries": 1}  # the runner does the trying again
    return tuple(_made(OpenAIServer, {**fixed, "url": url}, key) for url in urls)


def _made(cls: Any, values: Mapping[str, Any], where: str) -> Any:
    """Return an instance of a dataclass with these values."""
    checked = _checked(cls, values, where)
    lacking = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name not in checked
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if lacking:
        raise ConfigError(f"{where}: lacks {', '.join(lacking)}")
    return cls(**checked)


def _checked(cls: Any, values: Mapping[str, Any], where: str) -> Table:
    """Return values of a dataclass's fields, in their types."""
    hints = typing.get_type_hints(cls)
    _check_known(values, [f.name for f in dataclasses.fields(cls) if f.init], where)
    return {
        name: _typed(value, hints[name], f"{where}: {name}={value!r}")
        for name, value in values.items()
    }


def _typed(value: Any, hint: Any, where: str) -> Any:
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    options = typing.get_args(hint) if union else (hint,)
    for option in options:
        origin = typing.get_origin(option) or option
        if origin is typing.Literal and value in typing.get_args(option):
            return value
        if dataclasses.is_dataclass(origin) and isinstance(value, dict):
            return _made(origin, value, where)
        if origin is tuple:
            inner = typing.get_args(option)[0]
            many = value if isinstance(value, list | tuple) else [value]
            return tuple(_typed(one, inner, where) for one in many)
        if origin is Path and isinstance(value, str | Path):
            return Path(value)
        if origin is float and type(value) is int:
            return float(value)
        if not isinstance(origin, type) or getattr(origin, "_is_protocol", False):
            if origin is not typing.Literal:
                return value
        elif isinstance(value, origin) and not (origin is int and isinstance(value, bool)):
            return value
    names = ", ".join(str(getattr(option, "__name__", option)) for option in options)
    raise ConfigError(f"{where}: expected {names}")


def _check_known(values: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where}: has no setting {key!r}{hint} (it has: {', '.join(names)})")


def _assign(table: Table, assignments: Sequence[str]) -> Table:
    for assignment in assignments:
        path, sep, text = assignment.partition("=")
        if not sep:
            raise ConfigError(f"{assignment!r}: expected KEY=VALUE, for example seed=1")
        *outer, last = path.split(".")
        node = table
        for key in outer:
            node = _table(node.setdefault(key, {}), path)
        try:
            node[last] = tomllib.loads(f"x = {text}")["x"]
        except tomllib.TOMLDecodeError:
            node[last] = text
    return table


def _table(value: Any, where: str) -> Table:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a table, got {value!r}")
    return value


def _strings(value: Any, where: str) -> list[str]:
    """Return a list of texts; one text counts as a list of it."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ConfigError(f"{where}: expected a list of texts, got {value!r}")
    return value
