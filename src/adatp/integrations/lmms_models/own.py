"""Uses lmms-eval's own model of a family: it writes prompts and reads answers; adatp's session generates.

So the prompt, the frames, the settings of ``generate`` and the trimming of answers are lmms-eval's by
construction, with all their peculiarities.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import adatp.torchvision_guard  # noqa: F401  # before transformers

# isort: split
import torch
from transformers import PreTrainedModel

from adatp.integrations.lmms_models.arguments import Arguments, own_parameters
from adatp.session import Prompt, Session

Generate = Callable[[Prompt, Mapping[str, Any]], torch.Tensor]
"""Answers a prompt with settings of ``generate``: prompt and answer, (1, L + answer)."""


@dataclass(frozen=True)
class OwnModel:
    """One of lmms-eval's models.

    Attributes:
        name: its name in lmms-eval.
        frames: its argument for the number of frames.
        every_frame: whether its chat model passes every frame of a video to the processor, whatever
            ``frames`` is.
    """

    name: str
    frames: str = "max_num_frames"
    every_frame: bool = False


OWN_MODELS = {
    "llava_onevision": OwnModel("llava_hf", "max_frames_num", every_frame=True),
    "qwen2_vl": OwnModel("qwen2_vl"),
    "qwen2_5_vl": OwnModel("qwen2_5_vl"),
    "qwen3_vl": OwnModel("qwen3_vl"),
    "qwen3_vl_moe": OwnModel("qwen3_vl"),
    "qwen3_5": OwnModel("qwen3_5"),
    "qwen3_5_moe": OwnModel("qwen3_5"),
    "internvl": OwnModel("internvl_hf", "num_frames"),
    "gemma3": OwnModel("gemma3"),
}
"""``model_type`` -> lmms-eval's model of that family that runs transformers' own code.

Not among them: its ``glm4v``, which takes images alone, and its ``video_llava``, which fails with every video
(0.7.3).
"""


def own_class(model_type: str, simple: bool) -> type | None:
    """The class that lmms-eval runs for a family, or None where it has none.

    Args:
        model_type: of the checkpoint's config.
        simple: whether ``--force_simple`` was given. Of some families lmms-eval has one kind only.

    Raises:
        ImportError: it needs a package that is not installed, such as decord.
    """
    from lmms_eval.models import MODEL_REGISTRY_V2

    if model_type not in OWN_MODELS:
        return None
    found: type = MODEL_REGISTRY_V2.get_model_class(OWN_MODELS[model_type].name, force_simple=simple)
    return found


class OwnPrompts:
    """One of lmms-eval's own models, which writes prompts and reads answers while a session generates.

    Attributes:
        kind: its name in the harness.
        model: the instance. It has the session's weights.
    """

    def __init__(self, taker: type, session: Session, arguments: Arguments) -> None:
        """Build the model as lmms-eval builds it, with the weights that the session has loaded."""
        self.kind = OWN_MODELS[session.config.model_type]
        self._session, self._frames = session, arguments.frames
        given = {
            "pretrained": session.source,
            "device": session.device,
            "device_map": session.device,  # "auto" would spread the weights over GPUs
            "batch_size": 1,
            "attn_implementation": arguments.attention,
            "trust_remote_code": arguments.trust_remote_code,
            self.kind.frames: arguments.frames,
            **arguments.own,
        }
        known = own_parameters(taker)
        with _weights_of(session, taker):
            self.model: Any = taker(**{name: value for name, value in given.items() if name in known})
        self.model._device = torch.device(session.device)
        self.model._rank = 1  # of its own it shows no bar
        if self.kind.name == "llava_hf":
            self.model._image_processor = _WithoutEmptyLists(self.model._image_processor)

    def run(self, request: Any, tasks: Mapping[str, Any], generate: Generate) -> str:
        """Let the model answer one request.

        Args:
            request: lmms-eval's ``Instance``.
            tasks: its ``task_dict``.
            generate: answers the prompt.

        Returns:
            The answer as lmms-eval's model reads it.
        """
        own = copy.copy(self.model)
        own.task_dict = tasks
        own._model = _Generates(self._session.model, generate)
        request = copy.copy(request)
        request.arguments = tuple(
            copy.deepcopy(each) if isinstance(each, dict) else each for each in request.arguments
        )
        if self.kind.every_frame and not own.is_simple:
            request.arguments = (request.arguments[0], self._sampled(own, request), *request.arguments[2:])
        own._model.question = _question_of(own, request, tasks)
        [answer] = own.generate_until([request])
        return str(getattr(answer, "text", answer))

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Keep its figures of single requests out of the harness's results."""
        modules = _modules(type(self.model))
        with ExitStack() as stack:
            for module in modules:
                if hasattr(module, "log_metrics"):
                    stack.enter_context(patch.object(module, "log_metrics", lambda **_: None))
            yield

    def _sampled(self, own: Any, request: Any) -> Callable[[Any], list[Any]]:
        """``doc_to_messages`` with sampled frames instead of videos, as the simple model samples them."""
        written = request.arguments[1]

        def sampled(part: Mapping[str, Any]) -> Mapping[str, Any]:
            if part["type"] != "video" or not isinstance(part["url"], str):
                return part
            return {**part, "url": own.load_video(part["url"], self._frames)}

        def messages(doc: Any) -> list[Any]:
            return [{**each, "content": [sampled(part) for part in each["content"]]} for each in written(doc)]

        return messages


class _Placed:
    """A model that stays on its device."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def to(self, *_: Any, **__: Any) -> _Placed:
        return self

    def eval(self) -> _Placed:
        return self

    def tie_weights(self) -> None:
        pass


class _WithoutEmptyLists:
    """A processor that gets None if there are no images, because it refuses llava_hf's empty list."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, **given: Any) -> Any:
        return self._processor(**{name: value for name, value in given.items() if value != []})


class _Generates:
    """A model whose ``generate`` is answered by another object."""

    def __init__(self, model: Any, generate: Generate) -> None:
        self._model, self._generate = model, generate
        self.question = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(self, **given: Any) -> torch.Tensor:
        inputs = {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}
        settings = {name: value for name, value in given.items() if name not in inputs}
        return self._generate(Prompt(self.question, "", (), inputs, {}), settings)


def _question_of(own: Any, request: Any, tasks: Mapping[str, Any]) -> str:
    """The text of the last user turn, whose relevance to the frames some methods measure."""
    if own.is_simple:
        return str(request.arguments[0])
    _, written, _, number, task, split = request.arguments
    last = written(tasks[task][split][number])[-1]["content"]
    if isinstance(last, str):
        return last
    return "\n".join(str(part["text"]) for part in last if part["type"] == "text")


def _modules(taker: type) -> list[Any]:
    """The modules that define a class of lmms-eval and its bases."""
    names = dict.fromkeys(each.__module__ for each in taker.__mro__)
    return [sys.modules[name] for name in names if name.startswith("lmms_eval.models")]


class _OneProcess:
    """The part of accelerate that lmms-eval's models need, for a model that is already on its device."""

    num_processes, process_index = 1, 0
    is_main_process = is_local_main_process = False
    distributed_type = "NO"

    def __init__(self, device: str) -> None:
        self.local_process_index = torch.device(device).index or 0

    def unwrap_model(self, model: Any) -> Any:
        return model


@contextmanager
def _weights_of(session: Session, taker: type) -> Iterator[None]:
    """Inside, transformers gives the session's model instead of loading one. accelerate reports one
    process.
    """
    placed, accelerator = _Placed(session.model), _OneProcess(session.device)
    with ExitStack() as stack:
        stack.enter_context(patch.object(PreTrainedModel, "from_pretrained", lambda *_, **__: placed))
        for module in _modules(taker):
            if hasattr(module, "Accelerator"):
                stack.enter_context(patch.object(module, "Accelerator", lambda **_: accelerator))
        yield
