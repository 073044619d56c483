"""EleutherAI's harness on a model of ablate: the adapter that it calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from ablate.data import Tokenizer
from ablate.errors import DataError
from ablate.evaluation.language_model import rows_at_once
from ablate.evaluation.scoring import Request, Tokens, encode_pair, fit, score_requests
from ablate_model import GPT, Cache

MAX_NEW_TOKENS = 256  # the harness' own default


class HarnessModel(LM):  # type: ignore[misc]
    """A trained model as `lm_eval.simple_evaluate(model=HarnessModel(model, tokenizer))` takes it.

    `max_length` is the number of tokens that the model reads, by default its trained context. Longer contexts are cut
    at the front, as the harness does. Continuations are always greedy. Raises `DataError` for a request that cannot be
    scored: a continuation longer than `max_length`, or an empty context where the tokenizer has no separator.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        device: torch.device | str | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model.eval(), tokenizer
        self._device = torch.device(device) if device is not None else model.embedding.weight.device
        self.max_length = max_length or model.config.context_length

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return (log-likelihood in nats, whether it is greedy) of each (context, continuation)."""
        pairs = [self._fit(encode_pair, *request.args) for request in requests]
        return [(score.log_likelihood, score.is_greedy) for score in self._score(pairs)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Return the log-likelihood of each whole text, every token with as much context as fits."""
        windows = [list(self._roll(request.args[0])) for request in requests]
        scores = iter(self._score([window for text in windows for window in text]))
        return [sum(next(scores).log_likelihood for _ in text) for text in windows]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Continue each (context, settings) greedily up to the first of its `until` texts."""
        prompts: dict[int, list[int]] = defaultdict(list)
        jobs = []
        for number, request in enumerate(requests):
            context, settings = request.args
            if settings.get("do_sample"):
                raise DataError("lm_eval: the task asks for sampling, and continuations are greedy here")
            limit = min(int(settings.get("max_gen_toks", MAX_NEW_TOKENS)), self.max_length - 1)
            tokens = tuple(self.tokenizer.encode(context).tolist())[-(self.max_length - limit) :]
            jobs.append((tokens or self._start(), _list_stops(settings), limit))
            prompts[len(jobs[-1][0])].append(number)
        found: dict[int, str] = {}
        for length, numbers in sorted(prompts.items()):
            at_once = rows_at_once(self._device, length + MAX_NEW_TOKENS)
            for first in range(0, len(numbers), at_once):
                some = numbers[first : first + at_once]
                found.update(zip(some, self._continue([jobs[number] for number in some]), strict=True))
        return [found[number] for number in range(len(requests))]

    def _fit(self, encode: Any, *texts: str) -> Request:
        try:
            request = fit(encode(self.tokenizer, *texts), self.max_length)
        except ValueError as error:
            raise DataError(f"lm_eval: {error}") from None
        if request is None:
            raise DataError(f"lm_eval: a continuation does not fit the {self.max_length} tokens of the trained context")
        return request

    def _start(self) -> Tokens:
        return self._fit(encode_pair, "", "x").context

    def _score(self, requests: Sequence[Request]) -> Any:
        return score_requests(self.model, self._device, requests)

    def _roll(self, text: str) -> Iterator[Request]:
        """Windows in which each token of a text is predicted once, the last with full context."""
        tokens = tuple(self.tokenizer.encode(text).tolist())
        done = min(self.max_length, len(tokens))
        if tokens:
            yield Request(self._start(), tokens[:done])
        while done < len(tokens):
            end = min(done + self.max_length, len(tokens))
            yield Request(tokens[end - self.max_length - 1 : done], tokens[done:end])
            done = end

    @torch.inference_mode()
    def _continue(self, jobs: Sequence[tuple[Tokens, Sequence[str], int]]) -> list[str]:
        """Continue prompts of one length together."""
        cache = Cache(self.model.config.n_layers)
        unread_bt = torch.tensor([prompt for prompt, _, _ in jobs], device=self._device)
        written: list[list[int]] = [[] for _ in jobs]
        texts = [""] * len(jobs)
        is_open = [limit > 0 for _, _, limit in jobs]
        while any(is_open):
            unread_bt = self.model.form_logits(self.model.encode(unread_bt, cache)[:, -1:]).argmax(-1)
            for row, (token, (_, stops, limit)) in enumerate(zip(unread_bt[:, 0].tolist(), jobs, strict=True)):
                if is_open[row]:
                    written[row].append(token)
                    texts[row] = self.tokenizer.decode(written[row])
                    is_end = token == self.tokenizer.separator
                    is_open[row] = not is_end and len(written[row]) < limit and not any(s in texts[row] for s in stops)
        return [_cut_text(text, (*stops, *self._ends())) for text, (_, stops, _) in zip(texts, jobs, strict=True)]

    def _ends(self) -> tuple[str, ...]:
        """The text of the separator, if it has one."""
        separator = self.tokenizer.separator
        text = "" if separator is None else self.tokenizer.decode([separator])
        return (text,) if text else ()


def _list_stops(settings: Mapping[str, Any]) -> list[str]:
    until = settings.get("until") or []
    return [until] if isinstance(until, str) else list(until)


def _cut_text(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.partition(stop)[0] if stop else text
    return text
