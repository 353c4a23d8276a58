"""The second world's questions: right by an oracle that reads their text, balanced, with evidence."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from adatp.scenes import ANSWERS, CHANCE, QUESTION_TYPES, Clip, ask, benchmark, evidence, make_clip, questions
from adatp.scenes.clips import Thing
from adatp.scenes.vocabulary import COLOURS, CORNERS, EIGHTHS, PLACES, SHAPES, words

CLIPS = [make_clip(seed, n) for n in (6, 16, 33) for seed in range(50)]
ASKED = [(clip, question) for clip in CLIPS for kind in QUESTION_TYPES for question in questions(clip, kind)]


def named(clip: Clip, text: str) -> list[Thing]:
    """Every thing that a phrase such as "red star", "red thing" or "star in the forest" may mean."""
    phrase, _, place = text.partition(" in the ")
    parts = phrase.split()
    colour = next((part for part in parts if part in COLOURS), None)
    shape = next((part for part in parts if part in SHAPES), None)
    found = []
    for thing in clip.things:
        fits = any(colour in (None, c) and shape in (None, s) for c, s in thing.looks)
        places = {clip.scene_at(t).place for t in range(thing.start, thing.stop)}
        if fits and (not place or place in places):
            found.append(thing)
    return found


def only(clip: Clip, text: str) -> Thing:
    things = named(clip, text)
    assert len(things) == 1, f"{text!r} means {len(things)} things"
    return things[0]


def place_of(clip: Clip, thing: Thing) -> str:
    places = {clip.scene_at(t).place for t in range(thing.start, thing.stop)}
    assert len(places) == 1
    return places.pop()


def life(clip: Clip, text: str) -> set[int]:
    """The frames in which a thing, a place's beginning or darkness shows."""
    if begins := re.fullmatch(r"in which eighth does the (\w+) begin \?", text):
        scene = next(scene for scene in clip.scenes if scene.place == begins[1])
        return {scene.start, scene.start + scene.fade}
    if "light" in text:
        assert clip.dark is not None
        return set(range(*clip.dark))
    thing = only(clip, text.removeprefix("in which eighth is the ").removesuffix(" seen ?"))
    return set(range(thing.start, thing.stop))


def oracle(clip: Clip, kind: str, text: str) -> str:
    """The answer to a question, from its text and the clip's data alone."""
    order = [scene.place for scene in clip.scenes]
    if kind in ("colour", "shape"):
        look = only(clip, re.sub(r"what (colour|shape) is the (.*) \?", r"\2", text)).look
        return look[kind == "shape"]
    if kind == "exists":
        return "yes" if named(clip, re.sub(r"is there a (.*) \?", r"\1", text)) else "no"
    if kind == "where":
        row, column = only(clip, re.sub(r"where is the (.*) \?", r"\1", text)).path[-1]
        return CORNERS[2 * (row > 48) + (column > 48)]
    if kind == "eighth":
        eighths = {int(8 * t / clip.n_frames) for t in life(clip, text)}
        assert len(eighths) == 1
        return EIGHTHS[eighths.pop()]
    if kind == "first/last":
        end, phrases = re.fullmatch(r"which is seen (first|last) , (.*) \?", text).groups()  # type: ignore[union-attr]
        things = [only(clip, phrase.removeprefix("the ")) for phrase in re.split(r" , | or ", phrases)]
        things.sort(key=lambda thing: thing.start)
        return things[0 if end == "first" else -1].look[1]
    if kind == "before/after":
        one, two = (
            only(clip, x) for x in re.sub(r"is the (.*) \?", r"\1", text).split(" before or after the ")
        )
        return "before" if one.stop <= two.start else "after"
    if kind == "direction":
        path = only(clip, re.sub(r"which way does the (.*) move \?", r"\1", text)).path
        down, right = np.subtract(path[-1], path[0])
        return ("right" if right > 0 else "left") if right else ("down" if down > 0 else "up")
    if kind == "count":
        return ("one", "two", "three")[len(named(clip, text.split()[2])) - 1]
    if kind == "place":
        if found := re.fullmatch(r"which place comes right (after|before) the (\w+) \?", text):
            return order[order.index(found[2]) + (1 if found[1] == "after" else -1)]
        if found := re.fullmatch(r"which place is seen (first|last) \?", text):
            return order[0 if found[1] == "first" else -1]
        return place_of(clip, only(clip, re.sub(r"which place is behind the (.*) \?", r"\1", text)))
    if kind == "change":
        what, phrase = re.fullmatch(r"what (colour|shape) does the (.*) (?:turn|become) \?", text).groups()  # type: ignore[union-attr]
        return only(clip, phrase).looks[1][what == "shape"]
    dot = only(clip, re.sub(r"what colour is the dot on the (.*) \?", r"\1", text)).dot
    assert kind == "detail"
    assert dot is not None
    return dot[0]


def test_answers_are_right() -> None:
    kinds = Counter(question.kind for _, question in ASKED)
    assert set(kinds) == set(QUESTION_TYPES)
    assert min(kinds.values()) > 30
    for clip, question in ASKED:
        assert oracle(clip, question.kind, question.text) == question.answer, (clip.key, question)
        assert question.answer in ANSWERS[question.kind]


def test_every_word_is_known() -> None:
    known = set(words())
    for _, question in ASKED:
        assert {*question.text.split(), question.answer} <= known


def test_no_answer_in_the_question_but_where_it_offers_a_choice() -> None:
    for _, question in ASKED:
        if question.kind not in ("first/last", "before/after", "exists") and question.answer != "eighth":
            assert question.answer not in question.text.split()


def test_evidence_lies_where_the_things_are() -> None:
    for clip, question in ASKED[::3]:
        shown = evidence(clip, question)
        assert shown.shape == (clip.n_frames, 36)
        assert shown.any() or question.answer == "no"
        frames = {t for piece in question.shows for t in piece.frames}
        assert {int(t) for t in np.flatnonzero(shown.any(1))} == frames
        for piece in question.shows:
            if piece.what != "place":
                assert set(piece.frames) <= set(clip.visible(clip.things[piece.thing]))


def test_evidence_is_small() -> None:
    """Random tokens lose it: things asked about cover a few tokens of a few frames."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for clip, question in ASKED:
        if clip.n_frames == 16:
            things = tuple(piece for piece in question.shows if piece.what != "place")
            sizes[question.kind].append(int(evidence(clip, replace(question, shows=things)).sum()))
    for kind, values in sizes.items():
        assert np.median(values) <= 20, kind
    assert np.median(sizes["detail"]) <= 4


def test_ask_draws_different_questions_and_the_same_again() -> None:
    clip = CLIPS[60]
    drawn = ask(clip, 5, 20)
    assert drawn == ask(clip, 5, 20)
    assert len({question.text for question in drawn}) == len(drawn) == 20
    often = [q.kind for clip in CLIPS[50:80] for q in ask(clip, 1, 6, {"detail": 20.0})]
    assert often.count("detail") > 2 * [q.kind for clip in CLIPS[50:80] for q in ask(clip, 1, 6)].count(
        "detail"
    )


def test_the_benchmark_is_balanced_and_repeats() -> None:
    drawn = list(benchmark("validation", 16, 240))
    assert drawn == list(benchmark("validation", 16, 240))
    assert len({seed for seed, _ in drawn}) == 240
    kinds = Counter(question.kind for _, question in drawn)
    assert set(kinds.values()) == {20}
    for kind, answers in ANSWERS.items():
        counts = Counter(question.answer for _, question in drawn if question.kind == kind)
        assert max(counts.values()) <= -(-20 // len(answers))
    for seed, question in drawn[::20]:
        assert question in questions(make_clip(seed, 16, "validation"), question.kind)


def test_short_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="too short for every question type"):
        next(benchmark("test", 8, 1))


def test_the_words_of_a_question_hardly_give_its_answer_away() -> None:
    """Naive Bayes over the words and their places, trained on one half of the questions, on the other."""
    hits: dict[str, list[bool]] = defaultdict(list)
    rows: dict[str, list[tuple[set[object], str]]] = defaultdict(list)
    for _, question in benchmark("validation", 16, 960):
        parts = question.text.split()
        rows[question.kind].append(({*parts, *enumerate(parts), len(parts)}, question.answer))
    for kind, asked in rows.items():
        observed, total = defaultdict(Counter), Counter()  # type: ignore[var-annotated]
        for features, answer in asked[::2]:
            observed[answer].update(features)
            total[answer] += 1
        for features, answer in asked[1::2]:
            likely = {
                a: np.log(total[a]) + sum(np.log((observed[a][f] + 0.5) / (total[a] + 1)) for f in features)
                for a in total
            }
            hits[kind].append(max(likely, key=lambda a: likely[a]) == answer)
    for kind, right in hits.items():
        assert np.mean(right) < CHANCE[kind] + 0.22, kind
    assert np.mean([np.mean(right) - CHANCE[kind] for kind, right in hits.items()]) < 0.07


def test_places_are_asked_about_in_every_split() -> None:
    for split in ("test", "shifted"):
        answers = {q.answer for _, q in benchmark(split, 24, 150) if q.kind == "place"}
        assert answers <= set(PLACES)
        assert len(answers) >= 10
