"""What a server may be asked for, how long things may take, and how vLLM is started."""

from dataclasses import dataclass, fields

from prealign.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Beyond these a request is refused: 400, 408, 413, 429, 503 or 504."""

    max_body: int = 1 << 20
    """Bytes of a request's body."""
    max_tokens: int = 2048
    """Text tokens that one choice may have."""
    default_tokens: int = 256
    """Text tokens of a choice where the client names no number."""
    max_choices: int = 16
    """Choices (`n` times prompts) of one request."""
    max_stops: int = 8
    """Stop strings of one request."""
    max_stop_chars: int = 256
    """Of each of them."""
    queue: int = 256
    """Choices waiting, at work, or not yet read to their end, of all requests together."""
    timeout_s: float = 300.0
    """From a request's arrival to the end of its answer."""
    body_timeout_s: float = 20.0
    """Until all of a request's body is there."""
    drain_s: float = 30.0
    """For answers that are under way, when the server ends."""

    def __post_init__(self) -> None:
        for one in fields(self):
            if getattr(self, one.name) <= 0:
                raise ConfigError(f"{one.name}={getattr(self, one.name)}: expected more than 0")


@dataclass(frozen=True, kw_only=True)
class VllmSettings:
    """How vLLM is started; the guard fixes the rest of its settings."""

    gpu_memory: float = 0.9
    """Share of a GPU's memory."""
    eager: bool = False
    """Do not compile: a quick start, a slower model."""
    dtype: str = "auto"
    """Of the weights: `auto`, `bfloat16`, `float16`, `float32`."""
    tensor_parallel: int = 1
    """GPUs that hold the model together."""
