"""vLLM's `AsyncLLM` in miniature: what `VllmWorker` uses of it, masked by the guard's own plug-in.

Its model is a function of the last id and the request's seed. What it is told to do wrong is what a
real engine could do wrong.
"""

import asyncio
from types import SimpleNamespace

import numpy as np
import torch

from prealign.guard.follow import Follower
from prealign.guard.vllm_settings import REQUEST_KEY, check_params


class EngineDead(Exception):
    """As vLLM's `EngineDeadError`."""


def params(**fields):
    """As vLLM's `SamplingParams`, which has more."""
    return SimpleNamespace(**{"logit_bias": None, "detokenize": False} | fields)


class FakeVllm:
    """An engine.

    Args:
        vocabulary: The model's.
        table: What the plug-in masks by.
        often: Ids with a higher logit.
    """

    def __init__(self, vocabulary, table, often=()):
        self.vocabulary, self.table = vocabulary, table
        self.often = {vocabulary.end_id: -9} | dict(often)
        self.follower = Follower(table)
        texts = vocabulary.token_texts
        self.rare = [at for at, text in enumerate(texts) if not text.isascii()]  # so text is text
        self.errored = self.down = False
        self.running = 0
        self.requests = []
        self.masked_steps = None  # so many ids are masked, then none: None for all
        self.unmasked_at = None  # at this step there is no mask
        self.dies_at = None  # raises in place of its so-manieth id
        self.stops_at = None  # says that it is finished there
        self.shows = "all"  # or "nothing", "nan"
        self.deaf = False  # adds no bias
        self.delta = 2  # ids at once
        self.pause_s = 0.0

    def logits(self, seed, last):
        """Return what the model says behind an id, before bias and mask."""
        rng = np.random.default_rng([seed, last])
        logits_V = rng.normal(0, 2, self.vocabulary.size)
        logits_V[self.rare] -= 30
        for token, more in self.often.items():
            logits_V[token] += more
        return logits_V

    async def generate(self, prompt, sampling_params, request_id):
        check_params(self.table, sampling_params)
        told = SimpleNamespace(
            prompt=list(prompt["prompt_token_ids"]), params=sampling_params, id=request_id, ids=[],
            closed=False,
        )  # fmt: skip
        self.requests.append(told)
        self.running += 1
        try:
            new, shown = [], []
            while len(told.ids) < sampling_params.max_tokens:
                await asyncio.sleep(self.pause_s)
                if self.errored or self.dies_at == len(told.ids):
                    self.errored = True
                    raise EngineDead("EngineCore encountered an issue in /a/secret/place")
                token, odds = self._next(told)
                told.ids.append(token)
                new.append(token)
                shown.append(odds)
                over = self._over(told)
                if over or len(new) == self.delta:
                    yield self._output(new, shown, over)
                    new, shown = [], []
                if over:
                    return
        finally:
            told.closed = True
            self.running -= 1

    def shutdown(self):
        self.down = True

    def _next(self, told):
        asked, last = told.params, (told.prompt + told.ids)[-1]
        raw_V = self.logits(asked.seed, last)
        logprobs_V = raw_V - np.logaddexp.reduce(raw_V)
        if self.shows == "nan":
            logprobs_V[:] = np.nan
        logits_V = raw_V.copy()
        for token, more in ({} if self.deaf else asked.logit_bias or {}).items():
            logits_V[token] += more
        step, most = len(told.ids), self.masked_steps
        if step != self.unmasked_at and (most is None or step < most):
            logits_V = self._masked(logits_V, told)
        if asked.temperature:
            noise = np.random.default_rng([asked.seed, len(told.ids), last]).gumbel(size=raw_V.size)
            logits_V = logits_V / asked.temperature + noise
        token = int(logits_V.argmax())
        ids = {token, *(asked.logprob_token_ids or ())}
        return token, {one: SimpleNamespace(logprob=float(logprobs_V[one])) for one in ids}

    def _masked(self, logits_V, told):
        policy = told.params.extra_args[REQUEST_KEY]
        text = told.prompt + told.ids
        state = self.follower.behind(self.table.start(policy), text, len(told.prompt))
        logits_RV = torch.from_numpy(logits_V).float()[None]
        return self.follower.mask(logits_RV, [state])[0].double().numpy()

    def _over(self, told):
        if told.ids[-1] == self.vocabulary.end_id or len(told.ids) == self.stops_at:
            return "stop"
        return "length" if len(told.ids) == told.params.max_tokens else None

    def _output(self, new, shown, over):
        shown = None if self.shows == "nothing" else list(shown)
        one = SimpleNamespace(token_ids=list(new), logprobs=shown, finish_reason=over)
        return SimpleNamespace(outputs=[one], finished=over is not None)
