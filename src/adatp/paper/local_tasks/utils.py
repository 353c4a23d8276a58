"""The functions of the two local tasks for lmms-eval. The module is used from YAML files, without adatp.

The embedded model answers a plain question with one word. So prompts have no options, although the documents
have them like those of MVBench and VideoMME. A word counts as the option that it names.
"""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any

VIDEOS = Path(__file__).parent / "videos"


def mvbench_doc_to_visual(doc: Any, lmms_eval_specific_kwargs: Any = None) -> list[str]:
    """The file of a document in the shape of MVBench's."""
    return [str(VIDEOS / doc["video"])]


def videomme_doc_to_visual(doc: Any) -> list[str]:
    """The file of a document in the shape of VideoMME's."""
    return [str(VIDEOS / f"{doc['videoID']}.mp4")]


def doc_to_text(doc: Any, lmms_eval_specific_kwargs: Any = None) -> str:
    """The question of a document, without options."""
    return str(doc["question"])


def mvbench_process_results(doc: Any, results: list[str]) -> dict[str, Any]:
    """MVBench's record of one answer."""
    letters = dict(zip(doc["candidates"], string.ascii_uppercase, strict=False))
    said, right = letters.get(_word(results[0]), ""), letters[doc["answer"]]
    return {"mvbench_accuracy": {"pred_answer": results[0], "gt_answer": right, "score": int(said == right)}}


def videomme_process_results(doc: Any, results: list[str]) -> dict[str, Any]:
    """VideoMME's record of one answer."""
    letters = {option[3:].rstrip("."): option[0] for option in doc["options"]}
    said = letters.get(_word(results[0]), "")
    record = {"question_id": doc["question_id"], "duration": doc["duration"], "videoID": doc["videoID"]}
    record |= {"pred_answer": said, "answer": doc["answer"], "score": float(said == doc["answer"])}
    return {"videomme_perception_score": record}


def aggregate(results: list[dict[str, Any]]) -> float:
    """Mean accuracy of the results, in per cent."""
    return 100 * float(sum(result["score"] for result in results)) / len(results)


def _word(answer: str) -> str:
    return next(iter(re.findall(r"\w+", answer.lower())), "")
