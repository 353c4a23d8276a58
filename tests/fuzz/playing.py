"""Plays one scenario in float64 and compares what comes out with the masked reference, or with vanilla."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from adatp.errors import AdaTPError
from adatp.methods.vanilla import Vanilla
from families import IMAGE, VIDEO, Prompt, batch, build
from judging import (
    Call,
    Merged,
    Noted,
    WrongError,
    check_reports,
    compare,
    demand,
    kept_positions,
    merges,
    reference,
    take,
)
from oracle import recorded
from rounding import FLOAT64, no_float32_islands
from scenarios import ERRORS, FOUND, Interruption, Scenario
from snapshots import snapshot
from suite import continued

STEPS = 3
GREEDY: dict[str, Any] = {
    "do_sample": False,
    "min_new_tokens": STEPS,
    "max_new_tokens": STEPS,
    "suppress_tokens": [IMAGE, VIDEO, 94, 95, 96, 97],
    "return_dict_in_generate": True,
    "output_logits": True,
}
TEXTS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


def play(scenario: Scenario) -> str:
    """Play a scenario; what it came to: ``equal``, ``not pruned`` or ``refused: ...``.

    Raises:
        WrongError: numbers differ, a report is wrong or the model is not what it was.
        Exception: whatever else came out that is no error of ours, and does not come out of vanilla.
    """
    family = FOUND[scenario.family]
    with (
        pytest.MonkeyPatch.context() as patch,
        torch.no_grad(),
        warnings.catch_warnings(record=True) as heard,
    ):
        warnings.simplefilter("always")
        no_float32_islands(family, patch)
        model = build(family, scenario.attention, torch.float64)
        inputs = prompt_inputs(scenario)
        vanilla = model(**inputs, use_cache=False).logits
        before = snapshot(model)
        try:
            outcome = HOW[scenario.way](scenario, model, inputs)
        except AdaTPError as error:
            outcome = f"refused: {type(error).__name__}"
        except WrongError:
            raise
        except Exception as error:
            if not fails_too(scenario, error):
                raise
            return "vanilla fails too"
        demand(snapshot(model) == before, "the model is not what it was")
        demand(torch.equal(model(**inputs, use_cache=False).logits, vanilla), "vanilla afterwards differs")
    if outcome == "equal" and any("not pruned" in str(each.message) for each in heard):
        return "not pruned"
    return outcome


def prompt_inputs(scenario: Scenario) -> dict[str, Tensor]:
    """Of the first turn."""
    family = FOUND[scenario.family]
    inputs = batch(family, list(scenario.prompts), torch.float64)
    if scenario.padding == "left":
        return inputs
    pads = (inputs["attention_mask"] == 0).sum(1).tolist()
    for name in ("input_ids", "attention_mask"):
        inputs[name] = torch.stack([row.roll(-n) for row, n in zip(inputs[name], pads, strict=True)])
    return {**inputs, **family.more(inputs["input_ids"])}


# Ways of calling.


def calls(scenario: Scenario, model: Any, inputs: dict[str, Tensor]) -> str:
    """Of forward, with further turns and a few steps."""
    with entered(scenario, model) as run, recorded(model) as record, merges() as merged:
        noted = converse(scenario, model, inputs, run, merged)
    check_reports(scenario, noted)
    compare(model, record, noted)
    return "equal"


def split(scenario: Scenario, model: Any, inputs: dict[str, Tensor]) -> str:
    """The video in one call, the question in the next: nothing can be pruned."""
    words = min(prompt.question for prompt in scenario.prompts)
    cut = inputs["input_ids"].shape[1] - 1 - words
    last = (inputs["input_ids"] == FOUND[scenario.family].token).nonzero()[:, 1].max()
    if cut <= int(last):
        return "vanilla fails too"
    first = {n: part[:, :cut] if n in TEXTS else part for n, part in inputs.items()}
    padded = mask_of_call(scenario, inputs["attention_mask"], 1 + words)
    second = {"input_ids": inputs["input_ids"][:, cut:], **padded}
    if "token_type_ids" in inputs:
        second["token_type_ids"] = inputs["token_type_ids"]

    with entered(scenario, model) as run, recorded(model) as record, merges() as merged:
        cache = new_cache(scenario, model, inputs["input_ids"].shape[1])
        noted = Noted([], [], inputs["attention_mask"].bool())
        for part in (first, second):
            take(noted, model, {**part, "past_key_values": cache}, run, merged)
    compare(model, record, noted)
    return "equal"


def generate(scenario: Scenario, model: Any, inputs: dict[str, Tensor], **how: Any) -> str:
    """Greedily, or by sampling several sequences of each prompt."""
    copies = how.get("num_return_sequences", 1)
    settings = {**GREEDY, **how}
    if scenario.cache == "static":
        settings["cache_implementation"] = "static"
    if scenario.cache == "none":
        settings["use_cache"] = False
    with entered(scenario, model) as run, recorded(model) as record, merges() as merged:
        torch.manual_seed(0)
        before = len(run.reports)
        model.generate(**inputs, **settings)
        reports = run.reports[before:]
    if scenario.cache == "none":  # every step reads and prunes the complete sequence: the first is compared
        for calls in (record.embeds, record.positions, record.deepstack, record.logits):
            del calls[1:]
        merged[:] = merged[: len(merged) // STEPS]
        record.types = inputs.get("token_type_ids")
    noted = Noted([], merged, inputs["attention_mask"].bool().repeat_interleave(copies, 0))
    start = 0
    for number, (embeds, logits) in enumerate(zip(record.embeds, record.logits, strict=True)):
        report = reports[0] if reports and not number else None
        noted.calls.append(Call(start, embeds.shape[1], logits[:, None], report))
        start += embeds.shape[1]
    noted.real = torch.nn.functional.pad(noted.real, (0, start - noted.real.shape[1]), value=True)
    check_reports(scenario, noted)
    compare(model, record, noted)
    return "equal"


def sampling(scenario: Scenario, model: Any, inputs: dict[str, Tensor]) -> str:
    return generate(scenario, model, inputs, do_sample=True, num_return_sequences=2)


def beams(scenario: Scenario, model: Any, inputs: dict[str, Tensor]) -> str:
    """The sequences that come out score what the masked run gives them."""
    how = {**GREEDY, "output_logits": False, "output_scores": True, "num_beams": 2, "length_penalty": 0.0}
    if scenario.cache == "static":
        how["cache_implementation"] = "static"
    with entered(scenario, model) as run, merges() as merged:
        before = len(run.reports)
        output = model.generate(**inputs, **how)
        reports = run.reports[before:]
    complete = continued(inputs, output.sequences)
    with recorded(model) as record:
        model(**complete)
    prompt = inputs["input_ids"].shape[1]
    call = Call(0, prompt, torch.empty(0), reports[0] if reports else None)
    noted = Noted([call], [], complete["attention_mask"].bool())
    rows = [each.sample for each in merged]
    noted.merged = [each for each, row in zip(merged, rows, strict=True) if row % 2 == 0]
    for each in noted.merged:
        each.sample //= 2
    kept = kept_positions(noted, len(model.get_decoder().layers), copies=2)
    logits = reference(model, record, noted, kept)[:, -STEPS - 1 : -1]
    expected = logits.log_softmax(-1).gather(2, output.sequences[:, -STEPS:, None]).sum((1, 2))
    error = (output.sequences_scores - expected).abs().max().item()
    demand(error <= 1e-5, f"scores of beams differ by {error:.3g}")  # transformers adds them up in float32
    return "equal"


def chunks(scenario: Scenario, model: Any, inputs: dict[str, Tensor]) -> str:
    """Nothing can be pruned: the question is not known yet."""
    expected = model.generate(**inputs, **GREEDY, prefill_chunk_size=16)
    with entered(scenario, model) as run:
        before = len(run.reports)
        output = model.generate(**inputs, **GREEDY, prefill_chunk_size=16)
        demand(len(run.reports) == before, "a prompt in chunks was reported as pruned")
    same = all(map(torch.equal, output.logits, expected.logits))
    demand(same, "a prompt in chunks differs from vanilla's")
    return "equal"


def thread(scenario: Scenario, model: Any, inputs: dict[str, Tensor]) -> str:
    """One request in another thread than the context's."""
    return together(scenario, model, [inputs])


def threads(scenario: Scenario, model: Any, inputs: dict[str, Tensor]) -> str:
    """Two requests at once; the second one of other prompts."""
    others = [Prompt(p.frames, p.question, p.before + 1, p.seed + 1) for p in scenario.prompts]
    return together(scenario, model, [inputs, batch(FOUND[scenario.family], others, torch.float64)])


def together(scenario: Scenario, model: Any, requests: list[dict[str, Tensor]]) -> str:
    """Each in a thread of its own: right as if alone, or refused."""
    expected = []
    for inputs in requests:
        with scenario.method(model):
            expected.append(model(**inputs, use_cache=False).logits)
    came: list[Any] = [None] * len(requests)

    def ask(number: int) -> None:
        try:
            with torch.no_grad():
                came[number] = model(**requests[number], use_cache=False).logits
        except BaseException as error:
            came[number] = error

    with entered(scenario, model):
        workers = [threading.Thread(target=ask, args=(number,)) for number in range(len(requests))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    for got, alone in zip(came, expected, strict=True):
        if isinstance(got, AdaTPError):
            continue
        if isinstance(got, BaseException):
            raise got
        error = (got - alone).abs().max().item()
        demand(error <= FLOAT64, f"a request in a thread differs by {error:.3g}")
    return "equal" if any(isinstance(got, Tensor) for got in came) else "refused: in a thread"


HOW: dict[str, Callable[..., str]] = {
    way.__name__: way for way in (calls, generate, beams, sampling, chunks, split, thread, threads)
}


# Parts of them.


@contextmanager
def entered(scenario: Scenario, model: Any) -> Iterator[Any]:
    """The method's context; in it first a text without a video, and a request that breaks off."""
    words = {"input_ids": torch.arange(1, 12)[None]}
    expected, broken = model(**words).logits, None
    if scenario.interruption is not None and scenario.interruption.leaves:
        with suppress(ERRORS[scenario.interruption.error]), scenario.method(model):
            interrupted(scenario, model, scenario.interruption)
            raise ERRORS[scenario.interruption.error]
        demand(torch.equal(model(**words).logits, expected), "a text after leaving by an error differs")
    with scenario.method(model) as run:
        if scenario.text_before:
            demand(torch.equal(model(**words).logits, expected), "a text alone differs from vanilla's")
        if scenario.interruption is not None:
            broken = interrupted(scenario, model, scenario.interruption)
            demand(torch.equal(model(**words).logits, expected), "a text after an interruption differs")
        yield run
    if getattr(broken, "held", None):
        locked(scenario, model, broken)


def locked(scenario: Scenario, model: Any, cache: Any) -> None:
    """A cache that was filled under pruning does not go on outside."""
    position = FOUND[scenario.family].position(torch.tensor([[300]]))
    try:
        model(input_ids=torch.tensor([[17]]), position_ids=position, past_key_values=cache)
    except RuntimeError as error:
        refused = any(words in str(error) for words in ("filled under pruning", "left half filled"))
        demand(refused, f"a pruned cache outside: {error}")
        return
    raise WrongError("a pruned cache goes on outside without a word")


def interrupted(scenario: Scenario, model: Any, how: Interruption) -> Any:
    """A request that ends by an error in the middle of a layer; its cache."""
    inputs = batch(FOUND[scenario.family], [Prompt(seed=5)], torch.float64)
    cache = DynamicCache(config=model.config.get_text_config())
    kind = ERRORS[how.error]

    def fails(*_: Any) -> None:
        raise kind

    def broken(**arguments: Any) -> None:
        handle = model.get_decoder().layers[how.layer].mlp.register_forward_hook(fails)
        try:
            model(**arguments, past_key_values=cache)
        except kind:
            return
        finally:
            handle.remove()
        raise WrongError("an error in a layer was swallowed")

    if how.decoding:
        model(**inputs, past_key_values=cache)
        inputs = {"input_ids": torch.tensor([[17]])}
    broken(**inputs)
    return cache


def new_cache(scenario: Scenario, model: Any, length: int) -> Any:
    config = model.config.get_text_config()
    if scenario.cache == "static":
        return StaticCache(config, length + scenario.slack)
    return DynamicCache(config=config) if scenario.cache == "dynamic" else None


def mask_of_call(scenario: Scenario, mask: Tensor, new: int) -> dict[str, Tensor]:
    """The mask (B, S) of a call of the last ``new`` tokens, where transformers needs it, with positions."""
    family, (size, end) = FOUND[scenario.family], mask.shape
    given = {} if mask.all() and not scenario.needs_masks else {"attention_mask": mask}
    if given and new < end and family.multimodal_rope:  # transformers would number the mask, not the new ids
        given["position_ids"] = family.position(torch.arange(end - new, end).expand(size, -1))
    return given


def converse(
    scenario: Scenario, model: Any, inputs: dict[str, Tensor], run: Any, merged: list[Merged]
) -> Noted:
    """The first turn, those that follow, and a few steps, on one cache."""
    family, size = FOUND[scenario.family], len(inputs["input_ids"])
    noted = Noted([], [], inputs["attention_mask"].bool())
    if scenario.cache == "none":
        take(noted, model, {**inputs, "use_cache": False}, run, merged)
        return noted
    turns: list[dict[str, Tensor]] = [inputs]
    for turn in scenario.turns:
        if turn.frames:
            prompt = Prompt(turn.frames, turn.words, turn.words, turn.seed)
            turns.append(family.next_turn(inputs, batch(family, [prompt] * size, torch.float64)))
            if "token_type_ids" in turns[-1] and len(turns) > 2:
                return converse_without_types(scenario)
        else:
            turns.append({"input_ids": torch.arange(1, 1 + turn.words).expand(size, -1)})
    turns += [{"input_ids": torch.full((size, 1), 10 + step)} for step in range(STEPS)]
    length = sum(turn["input_ids"].shape[1] for turn in turns)
    cache = new_cache(scenario, model, length)
    mask = None
    for turn in turns:
        new = turn["input_ids"].shape[1]
        mask = turn["attention_mask"] if mask is None else torch.nn.functional.pad(mask, (0, new), value=1)
        padded = mask_of_call(scenario, mask, new)
        rest = {name: part for name, part in turn.items() if name != "attention_mask"}
        take(noted, model, {**rest, **padded, "past_key_values": cache}, run, merged)
    return noted


def converse_without_types(scenario: Scenario) -> Noted:
    """Gemma 3 wants the types of the complete sequence, which only a second turn is given here."""
    raise SkippedError(scenario.family)


class SkippedError(Exception):
    """Nothing that the fuzzer knows how to say."""


def fails_too(scenario: Scenario, error: Exception) -> bool:
    """Whether vanilla raises as well when called like this."""
    if isinstance(error, SkippedError):
        return True
    family = FOUND[scenario.family]
    model, inputs = build(family, scenario.attention, torch.float64), prompt_inputs(scenario)
    try:
        unpruned(replace(scenario, method=Vanilla()), model, inputs)
    except Exception:
        return True
    return False


class _NoRun:
    """Stands for the run where nothing prunes."""

    reports: tuple[Any, ...] = ()


def unpruned(scenario: Scenario, model: Any, inputs: dict[str, Tensor]) -> None:
    """The calls of a scenario outside of any context."""
    with pytest.MonkeyPatch.context() as patch:

        @contextmanager
        def nothing(*_: Any) -> Iterator[Any]:
            yield _NoRun()

        patch.setitem(globals(), "entered", nothing)
        patch.setitem(globals(), "compare", lambda *_: None)
        HOW[scenario.way](scenario, model, inputs)
