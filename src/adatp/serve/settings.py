"""What whoever runs the server decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from adatp.methods import AdaTP, Method

MIB = 1 << 20

MOST_PIXELS = 4096 * 2304
"""Largest frame or image, width times height: 4K."""

MOST_FRAME_BYTES = 1 << 30
"""Bytes of all decoded frames and images of one request, three a pixel."""

MOST_VIDEOS, MOST_IMAGES, MOST_MESSAGES = 8, 32, 256
"""Videos, images and messages of one request."""

MOST_STOPS, LONGEST_STOP = 16, 256
"""Strings that end an answer, and characters of one."""


@dataclass(frozen=True)
class Settings:
    """What whoever runs the server decides.

    Attributes:
        name: of the model, as requests call it.
        method: that prunes where a request names none.
        frames: sampled from a video where a request says nothing.
        most_frames: that a request may ask for.
        max_new_tokens: longest answer in tokens, where a request says nothing.
        most_new_tokens: that a request may ask for.
        max_batch: answers that are written together.
        batch_wait: seconds that a request waits for others that are being read, to be answered with them.
        max_requests: requests that are read, waited for or answered at once; one more is refused (429).
        most_body: bytes of a request.
        body_seconds: in which a request has to arrive.
        most_media: bytes of a video or image that is fetched from an address.
        media_seconds: in which the videos of a request have to be fetched and decoded.
        most_video_seconds: length of a video.
        local_media: folder whose files requests may name; None: none.
        remote_media: whether requests may name addresses on the web.
        keys: of the API; empty: nobody is asked for one.
        hosts: names of the server that a request may use; None: any.
        shutdown_seconds: that running requests are given when the server is stopped.
    """

    name: str
    method: Method = field(default_factory=AdaTP)
    frames: int = 32
    most_frames: int = 256
    max_new_tokens: int = 64
    most_new_tokens: int = 1024
    max_batch: int = 8
    batch_wait: float = 0.05
    max_requests: int = 64
    most_body: int = 128 * MIB
    body_seconds: float = 60.0
    most_media: int = 256 * MIB
    media_seconds: float = 60.0
    most_video_seconds: float = 3600.0
    local_media: Path | None = None
    remote_media: bool = False
    keys: tuple[str, ...] = ()
    hosts: frozenset[str] | None = None
    shutdown_seconds: float = 30.0
