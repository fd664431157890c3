"""From a model's folder to a server that runs until it is told to end."""

import contextlib
import logging
import socket
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from prealign.errors import ConfigError
from prealign.guard.canary import CanaryReport, check_path
from prealign.guard.gate import Guard
from prealign.guard.table import Table
from prealign.models.engine import Engine
from prealign.models.engine_sample import sample_by_engine
from prealign.models.fake import BiasedModel
from prealign.models.files import load_model
from prealign.models.sample import Sampling
from prealign.serve.access import Keys
from prealign.serve.app import make_app
from prealign.serve.metrics import Metrics
from prealign.serve.policies import table_for
from prealign.serve.prompts import Renderer, others_mode
from prealign.serve.service import Service
from prealign.serve.settings import Limits, VllmSettings
from prealign.serve.vllm_worker import VllmWorker
from prealign.serve.worker import Worker
from prealign.tokens.vocabulary import Vocabulary

LOCAL = ("127.0.0.1", "::1", "localhost")
LOG = logging.getLogger("prealign.serve")


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What a model is served as."""

    policy: str = "lock"
    mode: str | None = None
    """The mode that is opened for the model."""
    also: tuple[str, ...] = ()
    """Policies that a client may ask for."""
    hidden: tuple[str, ...] = ()
    """Modes of which nothing is shown."""
    others: str | None = None
    """The mode of what others say; None: `human`, or what comes closest."""
    rows: int = 64
    """Choices in the batch at once."""
    room: int | None = None
    """Tokens of a prompt and its answer; None: the model's context."""
    limits: Limits = field(default_factory=Limits)
    vllm: VllmSettings = field(default_factory=VllmSettings)
    """With `--engine vllm` alone."""


def make_service(name: str, model: Any, vocabulary: Vocabulary, serving: Serving) -> Service:
    """Return a service whose path to the model has been put to the canary's test.

    Raises:
        GuardError: The path is not guarded: nothing is served.
        PrealignError: Settings that do not fit the model's scheme.
    """
    table, others = plan(vocabulary, serving)
    report = check_engine(vocabulary, table)
    LOG.info("canary: %d runs, %d ids, none of them denied", report.runs, report.ids)
    # The guard's own measurements would pile up; the engine measures the pressure itself.
    guard = Guard(table, pressure=False)
    engine = Engine(model, vocabulary, guard, rows=serving.rows, room=serving.room)
    worker = Worker(engine, Metrics(), serving.limits.queue)
    return service_of(name, vocabulary, table, others, worker, serving)


def plan(vocabulary: Vocabulary, serving: Serving) -> tuple[Table, str | None]:
    """Return the table of the policies that are offered, and the mode of what others say.

    Raises:
        PrealignError: Settings that do not fit the model's scheme.
    """
    scheme = vocabulary.scheme
    for hidden in serving.hidden:
        scheme.mode(hidden)
        if serving.mode is not None and hidden in scheme.path(serving.mode):
            raise ConfigError(
                f"hidden={hidden}: is what the model is served in, so nothing would ever show; "
                "hide modes inside it"
            )
    table = table_for(vocabulary, serving.policy, serving.also, serving.mode)
    others = serving.others or others_mode(scheme, serving.mode)
    if others is not None and scheme.mode(others).close is None:
        raise ConfigError(f"mode {others!r} only marks; what others say needs one that encloses")
    return table, others


def service_of(
    name: str,
    vocabulary: Vocabulary,
    table: Table,
    others: str | None,
    worker: Worker | VllmWorker,
    serving: Serving,
) -> Service:
    """Return the service in front of whoever writes, whose path has been tested before."""
    own = serving.mode
    return Service(
        name=name,
        vocabulary=vocabulary,
        table=table,
        renderer=Renderer(vocabulary=vocabulary, own=own, others=others, room=worker.room),
        worker=worker,
        metrics=worker.metrics,
        limits=serving.limits,
        hidden=frozenset(serving.hidden),
    )


def check_engine(vocabulary: Vocabulary, table: Table) -> CanaryReport:
    """Return what the canary tried on the engine's path, for every policy that is offered.

    Raises:
        GuardError: The path is not guarded.
    """
    return check_path(
        sample_by_engine,
        table,
        vocabulary,
        biased=lambda token: BiasedModel(vocabulary.size, {token: 1e4}),
        settings={
            "greedy": Sampling(temperature=0, max_text_tokens=2),
            "drawn": Sampling(temperature=1, top_p=1, max_text_tokens=2),
        },
    )


class Server(uvicorn.Server):
    """uvicorn's, which says that it drains as soon as it is told to end."""

    def __init__(self, config: Any, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no new requests, let answers that are under way come to their end."""
        self._service.worker.tally.draining = True
        super().handle_exit(sig, frame)


def make_server(
    service: Service,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: Keys | None = None,
) -> Server:
    """Return a server that is not running yet.

    Raises:
        ConfigError: It could be reached from elsewhere, and asks for no key.
    """
    if keys is None and host not in LOCAL:
        raise ConfigError(
            f"host={host}: a server that others can reach needs keys: --api-key-file FILE"
        )
    config = uvicorn.Config(
        make_app(service, keys=keys),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=max(1, round(service.limits.drain_s)),
    )
    return Server(config, service)


def serve(
    folder: Path,
    serving: Serving,
    *,
    host: str,
    port: int,
    keys: Keys | None,
) -> None:
    """Serve a model that `save_model` wrote, until the process is told to end (SIGINT, SIGTERM).

    Raises:
        PrealignError: The model cannot be served so.
    """
    loaded = load_model(folder)
    name = folder.resolve().name
    service = make_service(name, loaded.model, loaded.vocabulary, serving)
    server = make_server(service, host=host, port=port, keys=keys)
    sockets = sockets_at(host, port)
    announce(service, host, sockets)
    with contextlib.suppress(KeyboardInterrupt):  # sent again by uvicorn, behind a graceful stop
        server.run(sockets=sockets)


def announce(service: Service, host: str, sockets: list[socket.socket]) -> None:
    """Say in one line what is served where."""
    policies = ", ".join(policy.name for policy in service.table.policies)
    print(
        f"prealign: {service.name} behind {policies} (guard {service.table.fingerprint}) "
        f"at http://{host}:{sockets[0].getsockname()[1]}",
        flush=True,
    )


def sockets_at(host: str, port: int) -> list[socket.socket]:
    """Return the socket to listen at.

    Raises:
        ConfigError: The port is taken, or the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen()  # whoever reads the address may call at once
    except OSError as error:
        found.close()
        raise ConfigError(f"host={host}, port={port}: cannot listen there ({error})") from error
    return [found]
