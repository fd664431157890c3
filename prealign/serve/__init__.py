"""An OpenAI-compatible HTTP server in front of a guarded model, and its playground page."""

from importlib.util import find_spec

from prealign.errors import MissingDependency

for _package in ("fastapi", "uvicorn", "prometheus_client"):
    if find_spec(_package) is None:
        raise MissingDependency(f'serve needs {_package}: pip install "prealign[serve]"')
