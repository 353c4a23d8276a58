"""What lmms-eval asks of the two local tasks; it runs beside their YAML files and knows nothing of adatp.

The embedded model answers a bare question with a word. So the options, which the documents have as those of
MVBench and VideoMME do, stand in no prompt, and a word counts as the option that it names.
"""

import re
import string
from pathlib import Path

VIDEOS = Path(__file__).parent / "videos"


def mvbench_doc_to_visual(doc, lmms_eval_specific_kwargs=None):
    """The file of a document in the shape of MVBench's."""
    return [str(VIDEOS / doc["video"])]


def videomme_doc_to_visual(doc):
    """The file of a document in the shape of VideoMME's."""
    return [str(VIDEOS / f"{doc['videoID']}.mp4")]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    """The question alone."""
    return doc["question"]


def mvbench_process_results(doc, results):
    """MVBench's record of one answer."""
    letters = dict(zip(doc["candidates"], string.ascii_uppercase, strict=False))
    said, right = letters.get(_word(results[0]), ""), letters[doc["answer"]]
    return {"mvbench_accuracy": {"pred_answer": results[0], "gt_answer": right, "score": int(said == right)}}


def videomme_process_results(doc, results):
    """VideoMME's record of one answer."""
    letters = {option[3:].rstrip("."): option[0] for option in doc["options"]}
    said = letters.get(_word(results[0]), "")
    record = {"question_id": doc["question_id"], "duration": doc["duration"], "videoID": doc["videoID"]}
    record |= {"pred_answer": said, "answer": doc["answer"], "score": float(said == doc["answer"])}
    return {"videomme_perception_score": record}


def aggregate(results):
    """Accuracy in per cent."""
    return 100 * sum(result["score"] for result in results) / len(results)


def _word(answer):
    return next(iter(re.findall(r"\w+", answer.lower())), "")
