"""What a comparison was made from: settings as dotted paths, what differs, where it ran."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from prealign.report.load import Study


def flat(value: Any, path: str = "") -> dict[str, str]:
    """Return JSON data as text by dotted path, as settings are written on the command line."""
    if isinstance(value, Mapping) and value:
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        items = enumerate(value)
    else:
        return {path: _text(value)}
    found: dict[str, str] = {}
    for key, item in items:
        found |= flat(item, f"{path}.{key}" if path else str(key))
    return found


def differences(study: Study) -> list[tuple[str, list[str]]]:
    """Return the settings that are not alike in all arms: the path, and each arm's value.

    Settings in which the seeds of one arm differ are left out. "-": the arm has no such setting,
    or has not begun.
    """
    settings = {
        arm: [flat(run.config.get("settings", {})) for run in study.of(arm) if run.config]
        for arm in study.arms
    }
    paths = dict.fromkeys(path for runs in settings.values() for run in runs for path in run)
    found = []
    for path in paths:
        values = [{run.get(path, "-") for run in settings[arm]} or {"-"} for arm in study.arms]
        if all(len(value) == 1 for value in values):
            row = [value.pop() for value in values]
            if len(set(row)) > 1:
                found.append((path, row))
    return found


def origins(study: Study) -> list[tuple[str, list[str]]]:
    """Return what the environment was: a name, and the values that its runs had.

    More than one value of a name means that runs are compared which were made apart.
    """
    runs = [run.config for run in study.runs if run.config]
    found: dict[str, dict[str, None]] = {}
    for config in [study.config, *runs]:
        environment = config.get("environment", {})
        shown = {key: value for key, value in environment.items() if key != "versions"}
        versions = environment.get("versions", {})
        if versions:
            shown["versions"] = ", ".join(f"{name} {value}" for name, value in versions.items())
        for key, value in shown.items():
            found.setdefault(key, {})[_text(value)] = None
    # Each worker has a command of its own, which says less than the one that began it all.
    command = study.config.get("environment", {}).get("command")
    if command:
        found["command"] = {command: None}
    order = ["command", "commit", "date", "machine", "python", "versions"]
    names = [name for name in order if name in found] + [n for n in found if n not in order]
    return [(name, list(found[name])) for name in names]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return "none"
    return str(value)
