"""Adapts requests to a task's wording for a certain model, and finds the media of a request."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def worded(request: Any, tasks: Mapping[str, Any], name: str | None, simple: bool) -> Any:
    """A request with its task's wording for lmms-eval's own model.

    Some tasks word their questions, or set ``generate``, by the name of the model. For the name "adatp" they
    would fall back to their default.

    Args:
        request: lmms-eval's ``Instance``.
        tasks: its ``task_dict``.
        name: name of lmms-eval's own model; None: the request stays as it is.
        simple: whether it comes as text and media.

    Returns:
        The request, or a copy of it.
    """
    place, settings = (2, 1) if simple else (1, 2)
    task = getattr(request.arguments[place], "__self__", None)
    config = getattr(task, "config", None)
    if name is None or task is None or config is None:
        return request
    words = _of(config.lmms_eval_specific_kwargs, name)
    generation = _of(config.model_specific_generation_kwargs, name)
    if words is None and generation is None:
        return request
    request, arguments = copy.copy(request), list(request.arguments)
    if generation is not None:
        arguments[settings] = {**arguments[settings], **generation}
    if words is not None:
        mine = copy.copy(task)
        mine.lmms_eval_specific_kwargs = words
        arguments[place] = getattr(mine, arguments[place].__name__)
        if simple:
            *_, number, name_of_task, split = arguments
            arguments[0] = mine.fewshot_context(tasks[name_of_task][split][number], config.num_fewshot or 0)
    request.arguments = tuple(arguments)
    return request


def _of(by_name: Any, name: str) -> Mapping[str, Any] | None:
    """A task's settings for one model, or None."""
    found = by_name.get(name) if isinstance(by_name, Mapping) else None
    return found if isinstance(found, Mapping) else None


def media_of(request: Any, tasks: Mapping[str, Any], simple: bool) -> list[str]:
    """The files that a request shows, to name it in a log."""
    try:
        if simple:
            _, _, media, number, task, split = request.arguments
            shown = media(tasks[task][split][number]) or []
        else:
            _, written, _, number, task, split = request.arguments
            messages = written(tasks[task][split][number])
            shown = [
                part.get("url") for each in messages for part in each["content"] if part["type"] != "text"
            ]
    except Exception:  # any kind: this may be the reason why the request failed
        return ["its media can't be named"]
    names = [str(each) if isinstance(each, str) else type(each).__name__ for each in shown]
    return names or ["no media"]
