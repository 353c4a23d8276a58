"""The command ``adatp demo`` as a process, for tests that ask its page as others do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

COMMAND = (sys.executable, "-c", "import sys; from adatp.cli import main; sys.exit(main())", "demo")


class Page:
    """The command, running.

    Attributes:
        folder: its folder for temporary files, made for it.
        errors: the file of what it writes on stderr.
        process: of the command.
        address: where it serves.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.errors = folder.with_suffix(".err")
        folder.mkdir()
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [*COMMAND, "--port", "0"],
                env={**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def megabytes(self, what: str) -> float:
        """What the process holds now (VmRSS), or held at most (VmHWM)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split(f"{what}:")[1].split()[0]) / 1024

    def stop(self, how: signal.Signals) -> tuple[int, str]:
        """The exit code and what was printed besides the address."""
        self.process.send_signal(how)
        assert self.process.stdout is not None
        try:
            return self.process.wait(120), self.process.stdout.read() + self.errors.read_text()
        finally:
            self.process.kill()
