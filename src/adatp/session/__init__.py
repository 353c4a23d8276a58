"""A session loads a Video LLM, prepares prompts, and answers them while a method prunes."""

import adatp.torchvision_guard  # noqa: F401  # before transformers

# isort: split
from adatp.session.answer import Answer
from adatp.session.errors import LoadError, PromptError
from adatp.session.loading import load_config
from adatp.session.media import visible_part
from adatp.session.prompt import Prompt
from adatp.session.session import MAX_NEW_TOKENS, Session
from adatp.session.stream import Stream

__all__ = [
    "MAX_NEW_TOKENS",
    "Answer",
    "LoadError",
    "Prompt",
    "PromptError",
    "Session",
    "Stream",
    "load_config",
    "visible_part",
]
