"""The settings of the person who runs the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from adatp.methods import AdaTP, Method

MIB = 1 << 20

MOST_PIXELS = 4096 * 2304
"""Largest frame or image, width times height: 4K."""

MOST_FRAME_BYTES = 1 << 30
"""Bytes of all decoded frames and images of one request, three per pixel."""

MOST_VIDEOS, MOST_IMAGES, MOST_MESSAGES = 8, 32, 256
"""Videos, images and messages of one request."""

MOST_STOPS, LONGEST_STOP = 16, 256
"""Number of strings that end an answer, and the length of one."""


@dataclass(frozen=True)
class Settings:
    """The settings of the person who runs the server.

    Attributes:
        name: name of the model in requests.
        method: method that prunes if a request names none.
        frames: frames sampled from a video if a request gives no number.
        most_frames: most frames that a request may ask for.
        max_new_tokens: longest answer in tokens if a request gives none.
        most_new_tokens: longest answer that a request may ask for.
        max_batch: number of answers that are generated together.
        batch_wait: seconds that a request waits for others that are being read, to share a batch.
        max_requests: requests that are read, waiting or answered at once; one more is refused (429).
        most_body: largest size of a request in bytes.
        body_seconds: time for a request to arrive.
        most_media: largest size in bytes of a video or image that is fetched from an address.
        media_seconds: time to fetch and decode the videos of a request.
        most_video_seconds: longest duration of a video.
        local_media: folder whose files requests may name; None: none.
        remote_media: whether requests may name addresses on the web.
        keys: keys of the API; empty: no key is needed.
        hosts: host names of the server that a request may use; None: any.
        shutdown_seconds: time for running requests when the server is stopped.
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
