"""The classes that lmms-eval loads for ``--model adatp``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from adatp.errors import RefusedError, first_line
from adatp.integrations.lmms_models.answering import Call, Reply, answer_calls
from adatp.integrations.lmms_models.arguments import check_own, read_arguments
from adatp.integrations.lmms_models.figures import Tally, log_tallies
from adatp.integrations.lmms_models.own import OWN_MODELS, OwnPrompts, own_class
from adatp.integrations.lmms_models.together import Together
from adatp.integrations.lmms_models.wording import media_of, worded
from adatp.integrations.lmms_models.written import WrittenPrompts
from adatp.session import Prompt, Session


class AdaTPSimple(lmms):  # type: ignore[misc]
    """A Video LLM of any family that adatp supports, pruned by any of its methods.

    Requests come as text and media. If lmms-eval has its own model of the family, that model writes the
    prompts and reads the answers (see `adatp.integrations.lmms_models.own`).
    """

    is_simple = True

    def __init__(self, **given: Any) -> None:
        """Load the model.

        Args:
            given: see `Arguments`; whatever else is an argument of lmms-eval's own model of the family.

        Raises:
            AdaTPError: the arguments are wrong, or the checkpoint can't be loaded or pruned.
        """
        super().__init__()
        self.arguments = read_arguments(given)
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.session: Any = Session(
            self.arguments.source,
            device=self._place(),
            dtype=self.arguments.dtype,
            trust_remote_code=self.arguments.trust_remote_code,
        )
        taker = self._taker()
        check_own(self.arguments, taker)
        if self.arguments.attention is not None:
            self.session.model.set_attn_implementation(self.arguments.attention)
        self.prompts: Any
        if taker is None:
            self.prompts = WrittenPrompts(self.session, self.arguments.frames, self.is_simple)
            logger.info("adatp writes the prompts itself")
        else:
            self.is_simple = taker.is_simple  # type: ignore[attr-defined]
            self.prompts = OwnPrompts(taker, self.session, self.arguments)
            logger.info(f"the prompts are those of lmms-eval's own {self.prompts.kind.name}")

    def _place(self) -> str:
        """This process's device. With several processes each has its own GPU, if there are any."""
        device = self.arguments.device
        if self._world_size > 1 and device.split(":")[0] in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{self.accelerator.local_process_index}"
        return "auto" if device == "cuda" and not torch.cuda.is_available() else device

    def _taker(self) -> type | None:
        """lmms-eval's own model of the family, if it should write the prompts."""
        arguments, kind = self.arguments, self.session.config.model_type
        wanted = arguments.prompts
        if wanted == "adatp" or self.session.embedded:
            return None
        try:
            taker = own_class(kind, self.is_simple)
        except ImportError as error:
            if wanted == "own":
                raise
            logger.warning(
                f"lmms-eval's own {OWN_MODELS[kind].name} can't be imported ({first_line(error)}): adatp "
                "writes the prompts, and reads videos, in its own way"
            )
            return None
        if taker is None and wanted == "own":
            raise RefusedError(f"prompts=own: lmms-eval has no model for {kind} that shows videos")
        return taker

    # The interface that lmms-eval requires of a model.

    @property
    def device(self) -> torch.device:
        """Device of this process's model."""
        return torch.device(self.session.device)

    @property
    def batch_size(self) -> int:
        """Documents that are answered together."""
        return self.arguments.batch_size

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer requests. If one fails, its answer is empty, and the log names it and the reason.

        Raises:
            RuntimeError: none could be answered.
        """
        results: list[GenerationResult] = []
        tally, failures = Tally(), []
        quiet = self.prompts.quiet() if isinstance(self.prompts, OwnPrompts) else nullcontext()
        with quiet, tqdm(total=len(requests), disable=self.rank != 0, desc="Model Responding") as bar:
            for batch in self._batches(requests):
                for request, outcome in zip(batch, self._answer(batch), strict=True):
                    result, milliseconds = outcome
                    if isinstance(result, Exception):
                        failures.append(self._failed(request, result))
                        result = GenerationResult(text="")
                    if not request.metadata.get("__padding_only__"):  # a copy, so that processes stay in step
                        tally.add(str(request.task_name), result.token_counts, milliseconds)
                    results.append(result)
                bar.update(len(batch))
        tallies = gather_object([tally])  # all processes take part, whatever their results
        documents = sum(each.documents for each in tallies)
        if documents and documents == sum(each.failed for each in tallies):
            last = f"; the last: {failures[-1]}" if failures else ""
            raise RuntimeError(f"none of {documents} documents has an answer{last}")
        log_tallies(tallies)
        return results

    def generate_until_multi_round(self, requests: list[Instance]) -> list[Any]:
        """Not supported, since no benchmark of video tokens needs it."""
        raise NotImplementedError("the model adatp answers single questions: no tasks of several rounds")

    def loglikelihood(self, requests: list[Instance]) -> list[Any]:
        """Not supported, as in lmms-eval's own models of these families."""
        raise NotImplementedError("the model adatp generates answers: no tasks that ask for likelihoods")

    def clean(self) -> None:
        """Release the model, so that a judge has memory."""
        self.session = self.prompts = None
        super().clean()

    # Answering requests.

    def _batches(self, requests: Sequence[Instance]) -> Iterator[list[Instance]]:
        """Requests in their order, grouped by equal settings of ``generate``."""
        place = 1 if self.is_simple else 2
        for _, group in groupby(requests, key=lambda each: repr(each.arguments[place])):
            same = list(group)
            for begin in range(0, len(same), self.batch_size):
                yield same[begin : begin + self.batch_size]

    def _answer(self, batch: Sequence[Instance]) -> list[tuple[GenerationResult | Exception, float]]:
        """The results of requests that are answered together, each with its milliseconds."""
        replies: list[Reply | Exception | None] = [None] * len(batch)

        def answer(calls: Sequence[Call]) -> list[torch.Tensor | Exception]:
            given = answer_calls(self.session, calls, self.arguments.method, self.arguments.reuse_frames)
            for call, reply in zip(calls, given, strict=True):
                replies[call.number] = reply
            return [reply if isinstance(reply, Exception) else reply.sequence for reply in given]

        def asks(number: int, request: Instance) -> Callable[[Callable[[Call], torch.Tensor]], str]:
            def run(model: Callable[[Call], torch.Tensor]) -> str:
                def generate(prompt: Prompt, settings: Mapping[str, Any]) -> torch.Tensor:
                    return model(Call(number, prompt, dict(settings)))

                name = self.prompts.kind.name if isinstance(self.prompts, OwnPrompts) else None
                asked = worded(request, self.task_dict, name, self.is_simple)
                text: str = self.prompts.run(asked, self.task_dict, generate)
                return text

            return run

        together: Together[Call, torch.Tensor, str] = Together(answer)
        texts = together.run([asks(*each) for each in enumerate(batch)])
        return [_outcome(text, reply) for text, reply in zip(texts, replies, strict=True)]

    def _failed(self, request: Instance, error: Exception) -> str:
        """Log that a request has no answer. Returns the logged text."""
        names = ", ".join(media_of(request, self.task_dict, self.is_simple))
        line = f"{request.task_name}, document {request.doc_id} ({names}): no answer: {first_line(error)}"
        logger.error(line)
        return line


class AdaTPChat(AdaTPSimple):
    """The same for requests that come as messages, which lmms-eval prefers."""

    is_simple = False


def _outcome(
    text: str | Exception, reply: Reply | Exception | None
) -> tuple[GenerationResult | Exception, float]:
    if isinstance(reply, Exception):  # some of lmms-eval's models make an empty answer of it
        return reply, 0.0
    if isinstance(text, Exception):
        return text, 0.0
    if reply is None:
        return RuntimeError("lmms-eval's own model did not ask (its message is above)"), 0.0
    counts = reply.counts if isinstance(reply.counts, TokenCounts) else None
    return GenerationResult(text=text, token_counts=counts), reply.milliseconds
