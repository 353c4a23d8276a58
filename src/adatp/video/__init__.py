"""Opens, checks and samples videos. Only this package uses PyAV.

`read_source` takes a file, a folder of frame images or an address on the web. `read_video` takes a file.

`scanning` lists every packet first, without decoding. So frames are counted and picked exactly, even if the
container is wrong or silent about them (variable frame rate, no stored frame count, B-frames, edit lists).
Then `decoding` decodes only the stretches from a keyframe to a picked frame, and checks that the packets were
right. If the packets do not give their frames, or give them wrong, the complete file is decoded twice: to
count, then to pick. In both cases only the picked frames are held.
"""

from adatp.video.decoding import Fit
from adatp.video.errors import VideoError
from adatp.video.reading import Video, read_video
from adatp.video.sources import local_file, read_source

__all__ = ["Fit", "Video", "VideoError", "local_file", "read_source", "read_video"]
