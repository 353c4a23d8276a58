"""A model that is loaded once and asked many questions."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from adatp.methods import AdaTP, Method
from adatp.pruning import Run
from adatp.session import loading
from adatp.session.answer import Answer, batches, generate, read
from adatp.session.errors import LoadError
from adatp.session.fitting import fit_for
from adatp.session.media import ImageLike, VideoLike, visible_part
from adatp.session.prompt import Message, Prompt, build_prompt, check_prompt, try_processor
from adatp.session.stream import Stream
from adatp.tiny import CHECKPOINT
from adatp.video import Video, read_video

MAX_NEW_TOKENS = 64
"""Longest answer, in tokens, where nothing else is said."""


class Session:
    """A Video LLM with its processor, loaded once and asked many questions.

    The config and the processor are read at once. The weights are loaded when they are first needed, so that
    a prompt can be prepared and checked before. One thread at a time may ask.

    >>> session = Session("Qwen/Qwen2.5-VL-7B-Instruct")
    >>> print(session.ask("holiday.mp4", "What does the dog fetch?").text)

    Attributes:
        source: the model's folder or its id on the Hugging Face hub.
        config: the model's.
        processor: the model's.
        device: where the model runs.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        """Read the config and the processor.

        Args:
            source: a folder, the id of a model on the Hugging Face hub, or the name of an embedded model
                (`adatp.tiny.EMBEDDED`); None: the first embedded model.
            device: a torch device, or "auto": CUDA where there is one.
            dtype: a torch dtype or its name, or "auto": the checkpoint's own.
            trust_remote_code: whether Python code and pickled weights of the checkpoint may run. Nobody is
                asked: without it such a checkpoint is refused, or loaded without its code.

        Raises:
            LoadError: there is no such checkpoint, device or dtype, or the processor can't be loaded.
            UnsupportedModelError: no family file knows the model.
        """
        name = str(dtype).removeprefix("torch.")
        if name != "auto" and not isinstance(getattr(torch, name, None), torch.dtype):
            raise LoadError(f"no dtype {name!r}: it is one of torch, such as bfloat16, or auto")
        self.source = loading.source_of(source)
        self.device = loading.pick_device(device)
        self.config: Any = loading.load_config(self.source, trust_remote_code)
        self.processor: Any = loading.load_processor(self.source, trust_remote_code)
        self._dtype, self._trusted = name, trust_remote_code
        self._strange = not (self.embedded or trust_remote_code)
        self._model: Any = None

    @classmethod
    def of(cls, model: Any, processor: Any) -> Session:
        """A session of a model that is loaded already.

        Args:
            model: a Video LLM of transformers, of a supported family.
            processor: its processor.
        """
        session = cls.__new__(cls)
        session.source = str(getattr(model, "name_or_path", ""))
        session.device = str(model.device)
        session.config, session.processor = model.config, processor
        session._dtype, session._trusted = str(model.dtype).removeprefix("torch."), False
        session._model, session._strange = model, False
        return session

    @property
    def model(self) -> Any:
        """The model, in evaluation mode; its weights are loaded at the first access.

        Raises:
            LoadError: the weights are missing, broken or incomplete.
        """
        if self._model is None:
            self._model = loading.load_model(self.source, self.device, self._dtype, self._trusted)
        return self._model

    @property
    def embedded(self) -> bool:
        """Whether this is the first of the small models that ship with the package."""
        return self.source == str(CHECKPOINT)

    # Prompts.

    def prepare(
        self,
        videos: VideoLike | Sequence[Any] | None,
        question: str | Sequence[Message],
        *,
        images: Sequence[ImageLike] = (),
        frames: int = 32,
        every_token: bool = False,
    ) -> Prompt:
        """Make a prompt of videos and a question, or of a chat. Needs no weights.

        Args:
            videos: one video or a list of them, each a file, a folder of frame images, an address on the web,
                a `Video`, or frames (F, H, W, 3) uint8; None where a chat names all its videos itself. Frames
                without times count as one a second.
            question: a text; or a chat, a list of messages with ``role`` and ``content``, of which the last
                is the user's. The content is a text, or a list of parts of the types "text", "video" and
                "image"; a part of type "video" names a video under "video", or leaves it to ``videos``. Where
                no part does, videos and images stand before the first text of the user.
            images: shown beside the videos, each a file, pixels (H, W, 3) uint8, or an image of pillow. No
                token of an image is dropped.
            frames: how many to sample, uniformly, from a file.
            every_token: whether the processor has to keep tokens that it would leave out because nothing
                moved (VideoLLaMA3).

        Raises:
            VideoError: a file can't be read as a video.
            PromptError: there is no video or no question, the text holds the model's placeholders, or the
                processor refuses.
        """
        prompt = build_prompt(
            self.processor,
            self.config,
            videos,
            question,
            images=images,
            frames=frames,
            every_token=every_token,
            strange=self._strange,
        )
        self._strange = False  # once is enough: it costs some milliseconds
        return prompt

    def try_out(self) -> None:
        """Refuse, by `PromptError`, a stranger's template or tokenizer that takes all time or memory."""
        if self._strange:
            try_processor(self.processor, self.config)

    def read_video(
        self,
        path: str | os.PathLike[str],
        frames: int = 32,
        *,
        most_seconds: float = math.inf,
        most_pixels: float = math.inf,
    ) -> Video:
        """Read a video file for `prepare`, as that does it itself.

        Frames that have more than 2^27 pixels together (64 of 1920 x 1080) are scaled down as they come.

        Args:
            path: the file.
            frames: how many to sample, uniformly.
            most_seconds: see `adatp.video.read_video`.
            most_pixels: see there.

        Raises:
            VideoError: the file can't be read as a video, or is beyond a limit.
            PromptError: so many frames don't fit into the model's context.
        """
        fit = fit_for(self.processor, self.config)
        return read_video(path, frames, most_seconds=most_seconds, most_pixels=most_pixels, fit=fit)

    def check(
        self,
        prompt: Prompt,
        method: Method,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        strict: bool = True,
    ) -> None:
        """Refuse what would fail once the model runs. Needs no weights.

        Args:
            prompt: from `prepare`.
            method: the pruning method.
            max_new_tokens: longest answer, in tokens.
            strict: whether a FLOPs target out of reach is refused too.

        Raises:
            PromptError: the prompt and the answer don't fit into the model's context.
            BudgetError: the method's FLOPs target is out of reach for this prompt.
            GridError: the method needs frames with all their tokens.
            LayoutError: the prompt's videos can't be laid out.
        """
        check_prompt(self.config, prompt, method, max_new_tokens, strict)

    def visible_part(self, video: Video) -> Video:
        """What the model is shown of a video's frames, to draw on: some processors cut out the middle."""
        return visible_part(self.processor, video)

    # Answers.

    def answer(
        self,
        prompt: Prompt,
        method: Method | None = None,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        reuse_frames: float | None = None,
        strict: bool = False,
        **generation: Any,
    ) -> Answer:
        """Answer a prompt while a method prunes.

        Args:
            prompt: from `prepare`.
            method: the pruning method; None: `AdaTP`.
            max_new_tokens: longest answer, in tokens.
            reuse_frames: see `adatp.methods.Method.__call__`.
            strict: see `adatp.methods.Method.__call__`.
            generation: more arguments of ``model.generate``. Decoding is greedy without them.

        Raises:
            PromptError, BudgetError, GridError, LayoutError: as of `check`.
            LoadError: the weights can't be loaded.
            EncoderError: the method's text-relevance encoder can't be loaded.
            PruningError: the model can't be pruned this way, or is being pruned already.
        """
        [answer] = self.answer_batch(
            [prompt],
            method,
            max_new_tokens=max_new_tokens,
            reuse_frames=reuse_frames,
            strict=strict,
            **generation,
        )
        return answer

    def answer_batch(
        self,
        prompts: Sequence[Prompt],
        method: Method | None = None,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        reuse_frames: float | None = None,
        strict: bool = False,
        watch: Callable[[Run], object] | None = None,
        **generation: Any,
    ) -> list[Answer]:
        """Answer several prompts together, each as it is answered alone.

        The prompts are padded on the left. Those whose frames don't fit into one batch (another number of
        frames or another size, where the model's inputs have an axis for it) are answered in several.

        Args:
            prompts: from `prepare`.
            method: the pruning method; None: as of `answer`, for all prompts together.
            max_new_tokens: longest answer, in tokens.
            reuse_frames: see `adatp.methods.Method.__call__`.
            strict: see `adatp.methods.Method.__call__`.
            watch: called with each batch's `Run` before the model reads it: what the method did can be read
                there while answers are still written.
            generation: more arguments of ``model.generate``.

        Returns:
            One answer a prompt, in their order. Answers of one batch share their report; ``row`` says which
            of its rows is theirs.

        Raises:
            AdaTPError: as of `answer`.
        """
        method = self._chosen(prompts, method, max_new_tokens, strict)
        answers: dict[int, Answer] = {}
        for numbers in batches(prompts):
            together = [prompts[number] for number in numbers]
            given = generate(
                self.model,
                self.processor,
                together,
                method,
                max_new_tokens,
                generation,
                reuse_frames,
                strict,
                watch,
            )
            answers.update(zip(numbers, given, strict=True))
        return [answers[number] for number in range(len(prompts))]

    def stream(
        self,
        prompt: Prompt,
        method: Method | None = None,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        reuse_frames: float | None = None,
        strict: bool = False,
        **generation: Any,
    ) -> Stream:
        """Answer a prompt, and give the text piece by piece as it comes.

        Args:
            prompt: from `prepare`.
            method: the pruning method; None: as of `answer`.
            max_new_tokens: longest answer, in tokens.
            reuse_frames: see `adatp.methods.Method.__call__`.
            strict: see `adatp.methods.Method.__call__`.
            generation: more arguments of ``model.generate``; without beams.

        Returns:
            An iterator of pieces of text; joined, they are the answer's text. Its ``answer`` is what `answer`
            returns.

        Raises:
            AdaTPError: as of `answer`; what fails while the model runs is raised by the iterator.
        """
        method = self._chosen([prompt], method, max_new_tokens, strict)
        model = self.model

        def run(streamer: Any) -> Answer:
            settings = {**generation, "streamer": streamer}
            [answer] = generate(
                model, self.processor, [prompt], method, max_new_tokens, settings, reuse_frames, strict
            )
            return answer

        return Stream(self.processor, run)

    def ask(
        self,
        videos: VideoLike | Sequence[Any] | None,
        question: str | Sequence[Message],
        method: Method | None = None,
        *,
        images: Sequence[ImageLike] = (),
        frames: int = 32,
        max_new_tokens: int = MAX_NEW_TOKENS,
        **generation: Any,
    ) -> Answer:
        """Answer a question about videos: `prepare` and `answer` in one call.

        Args:
            videos: as of `prepare`.
            question: as of `prepare`.
            method: as of `answer`.
            images: as of `prepare`.
            frames: how many to sample, uniformly, from a file.
            max_new_tokens: longest answer, in tokens.
            generation: more arguments of `answer`, ``model.generate``'s among them.

        Raises:
            AdaTPError: as of `prepare` and `answer`.
        """
        prompt = self.prepare(videos, question, images=images, frames=frames)
        return self.answer(prompt, method, max_new_tokens=max_new_tokens, **generation)

    def chat(self, messages: Sequence[Message], method: Method | None = None, **options: Any) -> Answer:
        """Answer the last message of a chat that names its videos itself; otherwise as `ask`."""
        return self.ask(None, messages, method, **options)

    def read(self, prompt: Prompt, method: Method) -> Answer:
        """Have the model read a prompt while a method prunes, without a word of answer.

        Returns:
            An answer without text, for its report and layout.

        Raises:
            AdaTPError: as of `answer`.
        """
        self.check(prompt, method, max_new_tokens=0, strict=False)
        return read(self.model, self.processor, prompt, method)

    def warm_up(self, prompt: Prompt, method: Method) -> None:
        """Answer once in two tokens, for what only a first run costs."""
        with warnings.catch_warnings():  # the run that follows says it again
            warnings.simplefilter("ignore")
            self.answer(prompt, method, max_new_tokens=2)

    def _chosen(
        self, prompts: Sequence[Prompt], method: Method | None, max_new_tokens: int, strict: bool
    ) -> Method:
        """The method to run, checked with every prompt."""
        method = AdaTP() if method is None else method
        for prompt in prompts:
            self.check(prompt, method, max_new_tokens=max_new_tokens, strict=strict)
        return method
