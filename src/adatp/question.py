"""Finds a prompt's question: the text of the last user turn, by the roles of the chat template.

The template's markers are learnt by rendering a probe conversation, so that no family has to define them. All
texts are compared without whitespace, because tokenizers merge it with neighbouring text.
"""

from __future__ import annotations

import re
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import Any

import torch
from torch import Tensor

from adatp.layout import VideoLayout

# Words that no template contains. They stand for the texts of a system, a user and an assistant.
_SYSTEM, _FIRST, _ANSWER, _SECOND = "qzsystem", "qzfirst", "qzanswer", "qzsecond"

_FRAME = "\ufffc"
"""Stands for the visual tokens of one frame."""

_PAD, _TEXT = -2, -1

Span = tuple[int, int]
"""Begin and end of a piece of text, in characters."""


@dataclass(frozen=True)
class ChatRoles:
    """A chat template's markers of the user's turns; texts without whitespace.

    Attributes:
        opens: texts that open a user's turn; one of them precedes each turn.
        close: the text that closes it.
        holds_system: whether the first user turn begins with the system prompt (Gemma 3), so that the two
            can't be separated.
    """

    opens: tuple[str, ...]
    close: str
    holds_system: bool = False

    def turns(self, text: str) -> list[Span]:
        """The user's turns in a prompt, in order; none if the prompt has no part of the template."""
        begins = [found.span() for found in re.finditer("|".join(map(re.escape, self.opens)), text)]
        if not begins and self.close in text:  # the opening of the turn is in the cache already
            begins = [(0, 0)]
        limits = [*(start for start, _ in begins[1:]), len(text)]
        turns = []
        for (_, begin), limit in zip(begins, limits, strict=False):
            end = text.find(self.close, begin, limit)
            turns.append((begin, limit if end < 0 else end))
        return turns


def learn_roles(processor: Any) -> ChatRoles | None:
    """Learn the roles from the chat template of a processor or tokenizer; None if it has no usable one."""
    tokenizer = getattr(processor, "tokenizer", processor)
    for renderer in (processor, tokenizer):
        # Some templates take messages in parts, some as texts. SmolVLM has one that only takes prompts with
        # videos.
        for in_parts, video in ((True, False), (False, False), (True, True)):
            if found := _learn(renderer, tokenizer, in_parts, video):
                return found
    return None


def _learn(renderer: Any, tokenizer: Any, in_parts: bool, video: bool) -> ChatRoles | None:
    chat: list[tuple[str, Any]] = [("user", _FIRST), ("assistant", _ANSWER), ("user", _SECOND)]
    if in_parts:
        chat = [(role, [{"type": "text", "text": text}]) for role, text in chat]
    if video:
        chat[0][1].append({"type": "video"})
    parts = _split(_render(renderer, chat, prompt=True), _FIRST, _ANSWER, _SECOND)
    ended = _split(_render(renderer, chat, prompt=False), _SECOND)
    if parts is None or ended is None:
        return None
    unit = _units_of(tokenizer)
    opens = _opens(unit.findall(parts[0]), unit.findall(parts[2]))
    closing = unit.findall(parts[3])
    if not video:
        closing = _beginning(closing, unit.findall(parts[1]))
    close = "".join(_beginning(closing, unit.findall(ended[1])) or closing)  # no answer's turn need follow
    if not all(opens) or not close:
        return None
    system = [{"type": "text", "text": _SYSTEM}] if in_parts else _SYSTEM
    rendered = _render(renderer, [("system", system), *chat[:1]], prompt=True)
    between = _split(rendered, _SYSTEM, _FIRST)
    return ChatRoles(opens, close, between is not None and not any(mark in between[1] for mark in opens))


def _units_of(tokenizer: Any) -> re.Pattern[str]:
    """Splits a text into added tokens, which can't occur in other text, and characters."""
    added = {_squeeze(token) for token in (*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens)}
    longest_first = sorted(added - {""}, key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, longest_first), "."]))


def _opens(first: Sequence[str], later: Sequence[str]) -> tuple[str, ...]:
    """The texts that open a user's turn, from the units before the first and before a later turn.

    They start at the last added token. If there is none, only their common end surely belongs to the role.
    """
    common = _beginning(first[::-1], later[::-1])[::-1]
    marks = []
    for before in (first, later):
        borders = [number for number, unit in enumerate(before) if len(unit) > 1]
        marks.append("".join(before[borders[-1] :] if borders else common))
    return tuple(dict.fromkeys(marks))


def _beginning(one: Sequence[str], other: Sequence[str]) -> list[str]:
    """The common beginning of two texts in units."""
    return [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]


def _render(renderer: Any, chat: Sequence[tuple[str, Any]], prompt: bool) -> str:
    """A conversation as the template writes it, without whitespace; empty if it can't."""
    messages = [{"role": role, "content": content} for role, content in chat]
    try:
        return _squeeze(renderer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))
    except Exception:  # a template is a program: it may raise anything, and there may be none
        return ""


def _squeeze(text: str) -> str:
    return "".join(text.split())


def _split(text: str, *words: str) -> list[str] | None:
    """The texts around the words; None unless each word occurs once, in this order."""
    parts = []
    for word in words:
        if text.count(word) != 1:
            return None
        before, text = text.split(word)
        parts.append(before)
    return [*parts, text]


_learnt: weakref.WeakKeyDictionary[Any, tuple[Any, ChatRoles | None]] = weakref.WeakKeyDictionary()


def roles_of(processor: Any) -> ChatRoles | None:
    """The learnt roles of a processor, cached per processor and template."""
    templates = [
        getattr(part, "chat_template", None)
        for part in (processor, getattr(processor, "tokenizer", processor))
    ]
    try:
        if processor not in _learnt or _learnt[processor][0] != templates:
            _learnt[processor] = templates, learn_roles(processor)
        return _learnt[processor][1]
    except TypeError:  # it can't be a key
        return learn_roles(processor)


@dataclass(eq=False)
class QuestionFinder:
    """Finds the question's own tokens in prompts.

    They are in the last user turn that has text, wherever that stands and whatever else is in it. System
    prompts, answers, the template's own words and the processor's texts between a video's frames (timestamps)
    do not count. If a prompt has no part of the template, the first words after the last visual token are
    taken.

    Attributes:
        tokenizer: the model's tokenizer.
        roles: the markers of its chat template, None if unknown.
        video_intro: a regular expression, without whitespace: what the processor writes only before a video's
            first frame, if nothing else in the prompt shows it.
    """

    tokenizer: Any
    roles: ChatRoles | None
    video_intro: str = ""
    _texts: dict[int, str] = field(default_factory=dict, init=False)
    _special: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        special = {number for number, token in added.items() if token.special}
        self._special = frozenset({*self.tokenizer.all_special_ids, *special})

    @classmethod
    def of(cls, processor: Any, video_intro: str = "") -> QuestionFinder | None:
        """Make a finder for a processor or tokenizer; None for None."""
        tokenizer = getattr(processor, "tokenizer", processor)
        return None if tokenizer is None else cls(tokenizer, roles_of(processor), video_intro)

    def positions(self, layout: VideoLayout, ids: Tensor) -> Tensor:
        """(q,) int64, ascending: positions of the question's words in a prompt.

        Args:
            layout: layout of the prompt, which has visual tokens.
            ids: (L,) its tokens.
        """
        prompt = self._read(layout, ids)
        found: list[int] = []
        turns = self.roles.turns(prompt.text) if self.roles is not None else []
        for number in reversed(range(len(turns))):
            own = self.roles is None or not self.roles.holds_system or number > 0
            found = [at for span in prompt.said(turns[number], own) for at in prompt.words(span)]
            if found:
                break
        if not found:
            found = prompt.first_words_after_video()
        if not found:
            return layout.question
        return torch.tensor(found, dtype=torch.int64, device=ids.device)

    def _read(self, layout: VideoLayout, ids: Tensor) -> _Prompt:
        kind = torch.full_like(ids, _PAD)
        kind[layout.real] = _TEXT
        kind[layout.index] = layout.frame
        numbers, kinds = torch.stack([ids, kind]).tolist()  # waits for the GPU once
        tokens: list[_Token] = []
        length = 0
        for position, (number, frame) in enumerate(zip(numbers, kinds, strict=True)):
            if frame == _PAD or (frame >= 0 and tokens and tokens[-1].frame == frame):
                continue
            text = _FRAME if frame >= 0 else self._text(number)
            word = frame == _TEXT and number not in self._special
            tokens.append(_Token(position, length, text, frame, word))
            length += len(text)
        video = [v for v, grid in enumerate(layout.grids) for _ in range(grid[0])]
        return _Prompt(tokens, video, self.video_intro)

    def _text(self, number: int) -> str:
        if number not in self._texts:
            self._texts[number] = _squeeze(self.tokenizer.decode([number])).replace(_FRAME, "")
        return self._texts[number]


@dataclass(frozen=True)
class _Token:
    """A token of text, or all neighbouring visual tokens of one frame.

    Attributes:
        position: in the prompt.
        begin: in the prompt's text.
        text: without whitespace.
        frame: counted over the prompt's videos; -1 for text.
        word: whether it may belong to a question: text, and no special token.
    """

    position: int
    begin: int
    text: str
    frame: int
    word: bool


class _Prompt:
    """A prompt as text without whitespace.

    Args:
        tokens: in order, pads left out.
        video: for each frame the number of its video.
        intro: see `QuestionFinder`.
    """

    def __init__(self, tokens: Sequence[_Token], video: Sequence[int], intro: str) -> None:
        self.tokens = tokens
        self._intro = re.compile(f"(?:{intro})$" if intro else "$")
        self.text = "".join(token.text for token in tokens)
        self._begins = [token.begin for token in tokens]
        shown = [token for token in tokens if token.frame >= 0]
        self._frames = [token.begin for token in shown]
        self._same_video = [video[one.frame] == video[next_.frame] for one, next_ in pairwise(shown)]
        gaps = zip(self._frames, self._frames[1:], self._same_video, strict=False)
        between = [self.text[one + 1 : next_] for one, next_, same in gaps if same and next_ > one + 1]
        self._between = between[0] if between else ""

    def said(self, turn: Span, own: bool) -> list[Span]:
        """The user's own text in a turn, without the processor's text between the frames of one video.

        Args:
            turn: a turn of the user.
            own: whether the user wrote the complete turn. Otherwise text before the first video only counts
                where no text follows.
        """
        begin, end = turn
        first, last = bisect_left(self._frames, begin), bisect_left(self._frames, end)
        if first == last:
            return [turn]
        spans = [(begin, self._without_suffix(begin, self._frames[first]))]
        for number in range(first, last - 1):
            if not self._same_video[number]:
                after = self._without_prefix(self._frames[number] + 1, self._frames[number + 1])
                spans.append((after, self._without_suffix(after, self._frames[number + 1])))
        spans.append((self._without_prefix(self._frames[last - 1] + 1, end), end))
        return spans if own or not any(map(self.words, spans[1:])) else spans[1:]

    def words(self, span: Span) -> list[int]:
        """Positions of a text span's tokens, without whitespace at its ends and without special tokens."""
        begin, end = span
        tokens = self.tokens[max(0, bisect_right(self._begins, begin) - 1) : bisect_left(self._begins, end)]
        inside = [
            token.word and bool(token.text) and token.begin + len(token.text) > begin for token in tokens
        ]
        if True not in inside:
            return []
        tokens = tokens[inside.index(True) : len(inside) - inside[::-1].index(True)]
        return [token.position for token in tokens if token.word]

    def first_words_after_video(self) -> list[int]:
        """Positions of the first run of words after the last visual token."""
        begin = self._without_prefix(self._frames[-1] + 1, len(self.text))
        after = [token for token in self.tokens if token.begin >= begin and token.frame < 0]
        start = next((n for n, token in enumerate(after) if token.word and token.text), len(after))
        return [token.position for token in takewhile(lambda token: token.word, after[start:])]

    def _without_prefix(self, begin: int, end: int) -> int:
        """Begin of the user's text after a frame. Text that also follows other frames is the processor's."""
        return begin + sum(_common(_units(self.text[begin:end]), _units(self._between)))

    def _without_suffix(self, begin: int, end: int) -> int:
        """End of the user's text before a frame, found in the same way."""
        end -= sum(_common(_units(self.text[begin:end])[::-1], _units(self._between)[::-1]))
        intro = self._intro.search(self.text, begin, end)
        return intro.start() if intro else end


def _units(text: str) -> list[str]:
    """The characters of a text; a number counts as one."""
    return re.findall(r"\d+|\D", text)


def _common(one: Sequence[str], other: Sequence[str]) -> Iterator[int]:
    """Lengths of the common beginnings. Any number equals any other, as in timestamps."""
    for a, b in zip(one, other, strict=False):
        if a != b and not (a[0].isdecimal() and b[0].isdecimal()):
            return
        yield len(a)
