"""Relevance of each frame or segment to the question, from signals that do not depend on token order.

The scale does not matter: `adatp.adatp_steps.debias.segment_weights` standardises it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_PART = 4096
"""Number of visual tokens processed together."""


def cosine_relevance(text: Tensor, frames: Tensor) -> Tensor:
    """Cosine between the question and each frame, in the shared space of a paired text and vision encoder.

    Args:
        text: (d,) embedding of the question.
        frames: (T, d) embedding of each frame.

    Returns:
        (T,) float32, in [-1, 1]; 0 for a zero vector.

    Source: the paper's signal.
    """
    return F.cosine_similarity(text.float(), frames.float(), dim=-1)


def embedding_relevance(question: Tensor, visual: Tensor, frame: Tensor, frames: int) -> Tensor:
    """Late interaction of words and visual tokens in the language model's input space, for any tower.

    Text and visual embeddings lie in two distant cones (the modality gap), so all raw cosines are nearly
    equal. Each side is therefore centred on its own mean first. What is left is how a word differs from the
    question's other words, and a token from the video's other tokens. A lone question token is not centred,
    since centring would erase it.

    For each frame and word the best token counts. Then the mean over words is taken (ColBERT's MaxSim). Why
    the maximum over tokens: a question often asks about a few tokens of a frame, which a mean over the frame
    would drown. The centred words also sum to zero, so a pooling that is linear in both sides would cancel to
    noise. Why the mean over words: a word that matches nothing, or everything, adds the same to all frames.

    Args:
        question: (q, d) input embeddings of the question's content tokens.
        visual: (n, d) projected visual tokens.
        frame: (n,) int64, frame of each visual token, from 0.
        frames: T, more than the last of them.

    Returns:
        (T,) float32; 0 for a frame without tokens, or without a question.

    Source: ours.
    """
    if len(question) == 0:
        return visual.new_zeros(frames, dtype=torch.float32)
    words = question.float()
    if len(words) > 1:
        words = words - words.mean(0)
    words = F.normalize(words, dim=-1)
    # In parts: in float32 a long video's tokens take many times the memory that the decoder needs.
    parts = torch.split(visual, _PART)
    mean = torch.stack([part.sum(0, dtype=torch.float32) for part in parts]).sum(0) / len(visual)
    best = words.new_full((len(words), frames), -torch.inf)
    for part, at in zip(parts, torch.split(frame, _PART), strict=True):
        tokens = part.float() if len(visual) == 1 else part.float() - mean
        cosine = words @ F.normalize(tokens, dim=-1).T
        best.scatter_reduce_(1, at.expand_as(cosine), cosine, reduce="amax")
    return best.masked_fill(best == -torch.inf, 0).mean(0)


def attention_relevance(mass: Tensor, frame: Tensor, frames: int) -> Tensor:
    """Mean attention that a token of each frame receives: the frame weights of a deep layer.

    Args:
        mass: (n,) attention that each visual token receives, any non-negative scale.
        frame: (n,) int64, frame of each visual token, from 0.
        frames: T, more than the last of them.

    Returns:
        (T,) float32; 0 for a frame without tokens.

    Source: DyToK's frame weights.
    """
    total = mass.new_zeros(frames, dtype=torch.float32).index_add_(0, frame, mass.float())
    tokens = torch.zeros_like(total).index_add_(0, frame, torch.ones_like(mass, dtype=torch.float32))
    return total / tokens.clamp_min(1)


def pool_by_segment(relevance: Tensor, segment: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Relevance of each segment: the mean relevance of its frames.

    Args:
        relevance: (T,) relevance of each frame.
        segment: (T,) int64 segment of each frame, from 0, ascending (`segment_frames`).
        weight: (T,) weight of each frame in the mean; None: equal weights.

    Returns:
        (S,) of relevance's type; the mean of frames without weight is 0.
    """
    segments = int(segment[-1]) + 1 if len(segment) else 0
    member = segment == torch.arange(segments, device=segment.device)[:, None]
    # A masked sum, not a scatter: its order, and so its rounding, is fixed on a GPU too.
    share = member * (torch.ones_like(relevance) if weight is None else weight)
    return (share * relevance).sum(1) / share.sum(1).clamp_min(torch.finfo(share.dtype).tiny)


def reliability(relevance: Tensor, segment: Tensor) -> float:
    """Reliability of the differences of relevance between segments, given how much it varies within them.

    Frames that vary within segments make the segments' means vary too. Reliability is the share of the
    variance between means that this does not explain: 1 - (variance within / mean length) / variance between
    means, at least 0.

    Args:
        relevance: (T,) relevance of each frame.
        segment: (T,) int64 segment of each frame, from 0, ascending.

    Returns:
        In [0, 1]; 1 where no segment has two frames, 0 where all segments have the same mean.

    Source: ours (the intraclass correlation of an analysis of variance).
    """
    sizes = segment.bincount().to(relevance.device)
    frames, segments = len(relevance), len(sizes)
    if segments < 2 or frames == segments:
        return 1.0
    values = relevance.double()
    means = pool_by_segment(values, segment.to(relevance.device))
    within = (values - means[segment]).square().sum() / (frames - segments)
    between = (sizes * (means - values.mean()).square()).sum() / (segments - 1)
    if not float(between) > 0:
        return 0.0
    return float((1 - within / between).clamp(0, 1))
