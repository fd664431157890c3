"""The bodies of requests, as the OpenAI API has them. What is not known is refused, not ignored.

Parameters that would reach under the guard or change the model's odds behind its back (a bias on
ids, penalties, grammars, tools) are refused unless they say "off".
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_SEED = (1 << 63) - 1
Id = Annotated[int, Field(ge=0, le=(1 << 31) - 1)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Strict(BaseModel):
    """No unknown field, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Strict):
    """How to stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class Extension(Strict):
    """What only this server has."""

    policy: str | None = Field(None, max_length=200)
    """One of the policies that the server allows, as strict as its own or stricter."""


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart]
    name: None = None
    tool_call_id: None = None
    refusal: None = None
    audio: None = None
    annotations: list[Any] | None = Field(None, max_length=0)
    tool_calls: list[Any] | None = Field(None, max_length=0)
    function_call: None = None

    @property
    def text(self) -> str:
        """All of it."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class Asked(Strict):
    """What both kinds of requests have."""

    model: str = Field("", max_length=400)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=128)
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(None, ge=1, le=1 << 31)
    temperature: Number | None = Field(None, ge=0, le=2)
    top_p: Number | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-MAX_SEED, le=MAX_SEED)
    user: str | None = None
    metadata: dict[str, str] | None = None
    prealign: Extension | None = None
    logit_bias: dict[str, float] | None = Field(None, max_length=0)
    presence_penalty: Number | None = Field(None, ge=0, le=0)
    frequency_penalty: Number | None = Field(None, ge=0, le=0)

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if stop == "" or (isinstance(stop, list) and "" in stop):
            raise ValueError("a stop string is empty")
        return stop

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: without stream they have no effect")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, each once."""
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(dict.fromkeys(found))

    @property
    def usage_at_end(self) -> bool:
        """A stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Asked):
    """The body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=1 << 31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    tools: list[Any] | None = Field(None, max_length=0)
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: without logprobs they have no effect")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens: give this or max_completion_tokens, not both")
        return self

    @property
    def length(self) -> int | None:
        """Text tokens at most."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        """How many likeliest ids to report; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Asked):
    """The body of /v1/completions. A prompt of ids is one of text ids."""

    prompt: str | list[Id] | list[str] | list[list[Id]]
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: Literal[False] | None = None
    best_of: None = None
    suffix: None = None

    @property
    def length(self) -> int | None:
        """Text tokens at most."""
        return self.max_tokens

    @property
    def top(self) -> int | None:
        """How many likeliest ids to report; None: no log-probabilities."""
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt by itself."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if prompt and isinstance(prompt[0], int):
            return [[int(token) for token in prompt if isinstance(token, int)]]
        return [one for one in prompt if not isinstance(one, int)]


class SwitchRequest(Strict):
    """The body of /prealign/switch."""

    id: str = Field(max_length=100)
    policy: str = Field(max_length=200)
