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
"""Default length of the longest answer, in tokens."""


class Session:
    """A Video LLM with its processor, loaded once and asked many questions.

    The config and the processor are read at once, the weights when they are first needed. So a prompt can be
    prepared and checked before. Only one thread at a time may ask.

    >>> session = Session("Qwen/Qwen2.5-VL-7B-Instruct")
    >>> print(session.ask("holiday.mp4", "What does the dog fetch?").text)

    Attributes:
        source: the model's folder or its id on the Hugging Face hub.
        config: the model's config.
        processor: the model's processor.
        device: the device that the model runs on.
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
            device: a torch device, or "auto": CUDA if available.
            dtype: a torch dtype or its name, or "auto": the checkpoint's own.
            trust_remote_code: whether Python code and pickled weights of the checkpoint may run. If not,
                such a checkpoint is refused, or loaded without its code. Nobody is asked at a terminal.

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
        """Make a session from a loaded model.

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
                a `Video`, or frames (F, H, W, 3) uint8. None if a chat names all its videos itself. Frames
                without times count as one per second.
            question: a text, or a chat. A chat is a list of messages with ``role`` and ``content``; the last
                one is the user's. The content is a text, or a list of parts of the types "text", "video" and
                "image". A part of type "video" names a video under "video", or leaves it to ``videos``. If no
                part does either, videos and images come before the first text of the user.
            images: further images, each a file, pixels (H, W, 3) uint8, or an image of pillow. Their tokens
                are never dropped.
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
        """Refuse, by `PromptError`, a stranger's template or tokenizer that takes too much time or memory."""
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
        """Read a video file in the same way as `prepare`.

        Frames with more than 2^27 pixels together (64 of 1920 x 1080) are scaled down while being read.

        Args:
            path: the file.
            frames: how many to sample, uniformly.
            most_seconds: see `adatp.video.read_video`.
            most_pixels: see there.

        Raises:
            VideoError: the file can't be read as a video, or exceeds a limit.
            PromptError: this number of frames does not fit into the model's context.
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
        """Refuse a prompt that would fail once the model runs. Needs no weights.

        Args:
            prompt: from `prepare`.
            method: the pruning method.
            max_new_tokens: longest answer, in tokens.
            strict: whether a FLOPs target that is out of reach is refused too.

        Raises:
            PromptError: the prompt and the answer don't fit into the model's context.
            BudgetError: the method's FLOPs target is out of reach for this prompt.
            GridError: the method needs frames with all their tokens.
            LayoutError: the prompt's videos can't be laid out.
        """
        check_prompt(self.config, prompt, method, max_new_tokens, strict)

    def visible_part(self, video: Video) -> Video:
        """The part of a video's frames that the model receives: some processors cut out the middle."""
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
            generation: more arguments of ``model.generate``. Without them, decoding is greedy.

        Raises:
            PromptError, BudgetError, GridError, LayoutError: as in `check`.
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
        """Answer several prompts together, with the same results as one by one.

        The prompts are padded on the left. If their frames don't fit into one batch (another number or size,
        and an axis for it in the model's inputs), they are answered in several.

        Args:
            prompts: from `prepare`.
            method: the pruning method for all prompts; None: `AdaTP`.
            max_new_tokens: longest answer, in tokens.
            reuse_frames: see `adatp.methods.Method.__call__`.
            strict: see `adatp.methods.Method.__call__`.
            watch: called with each batch's `Run` before the model reads it. The run shows what the method did
                while answers are still being generated.
            generation: more arguments of ``model.generate``.

        Returns:
            One answer per prompt, in their order. Answers of one batch share their report; ``row`` is the
            prompt's index in it.

        Raises:
            AdaTPError: as in `answer`.
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
        """Answer a prompt, and give the text piece by piece while it is generated.

        Args:
            prompt: from `prepare`.
            method: the pruning method; None: `AdaTP`.
            max_new_tokens: longest answer, in tokens.
            reuse_frames: see `adatp.methods.Method.__call__`.
            strict: see `adatp.methods.Method.__call__`.
            generation: more arguments of ``model.generate``; without beams.

        Returns:
            An iterator of pieces of text; joined, they are the answer's text. Its ``answer`` is the result of
            `answer`.

        Raises:
            AdaTPError: as in `answer`; errors while the model runs are raised by the iterator.
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
            videos: as in `prepare`.
            question: as in `prepare`.
            method: as in `answer`.
            images: as in `prepare`.
            frames: how many to sample, uniformly, from a file.
            max_new_tokens: longest answer, in tokens.
            generation: more arguments of `answer`, including those of ``model.generate``.

        Raises:
            AdaTPError: as in `prepare` and `answer`.
        """
        prompt = self.prepare(videos, question, images=images, frames=frames)
        return self.answer(prompt, method, max_new_tokens=max_new_tokens, **generation)

    def chat(self, messages: Sequence[Message], method: Method | None = None, **options: Any) -> Answer:
        """Answer the last message of a chat that names its videos itself; otherwise the same as `ask`."""
        return self.ask(None, messages, method, **options)

    def read(self, prompt: Prompt, method: Method) -> Answer:
        """Let the model read a prompt while a method prunes, without answering it.

        Returns:
            An answer without text, for its report and layout.

        Raises:
            AdaTPError: as in `answer`.
        """
        self.check(prompt, method, max_new_tokens=0, strict=False)
        return read(self.model, self.processor, prompt, method)

    def warm_up(self, prompt: Prompt, method: Method) -> None:
        """Generate two tokens once, so that the costs of a first run are paid."""
        with warnings.catch_warnings():  # the run that follows repeats them
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
