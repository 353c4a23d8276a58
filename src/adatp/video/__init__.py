"""Opens, checks and samples videos. The only package that touches PyAV.

`read_source` takes a file, a folder of frame images or an address on the web. `read_video` takes a file.

`scanning` lists every packet first, without decoding, so that frames are counted and picked exactly,
whatever the container says of itself (variable frame rate, no stored frame count, B-frames, edit lists).
Then `decoding` decodes only the stretches from a keyframe to a picked frame, and checks that the packets
told the truth. A file whose packets do not tell which frame they hold, or tell it wrong, is decoded through,
twice: to count, then to pick. Either way only the picked frames are ever held.
"""

from adatp.video.decoding import Fit
from adatp.video.errors import VideoError
from adatp.video.reading import Video, read_video
from adatp.video.sources import local_file, read_source

__all__ = ["Fit", "Video", "VideoError", "local_file", "read_source", "read_video"]
