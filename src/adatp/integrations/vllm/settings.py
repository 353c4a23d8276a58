"""The settings in ``--additional-config '{"adatp": {...}}'``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from typing import Any

from adatp.adatp_steps.before_layers import Thresholds
from adatp.errors import AdaTPError


class SettingsError(AdaTPError, ValueError):
    """The settings make no sense. The message is one line."""


@dataclass(frozen=True)
class Settings:
    """Settings of the plugin. vLLM's own ``--video-pruning-rate`` sets how many tokens are dropped.

    Attributes:
        question: whether the question decides what stays. For vLLM's caches, the video of each question is
            then a medium of its own.
        tau_s: see `adatp.adatp_steps.before_layers.Thresholds`.
        tau_d: see there.
        tau_r: see there.
        even: see there.
        cache_mib: with ``question``, the memory in MiB for embeddings of unpruned videos, so that another
            question about the same video does not run the vision tower again. 0: none are kept.
    """

    question: bool = False
    tau_s: float = 0.95
    tau_d: float = 0.9
    tau_r: float = 1.0
    even: float = 0.5
    cache_mib: int = 512

    def __post_init__(self) -> None:
        asked: object = self.question
        if not isinstance(asked, bool):
            raise SettingsError(f"adatp: question is true or false, not {asked!r}")
        for name in ("tau_s", "tau_d", "tau_r", "even"):
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise SettingsError(f"adatp: {name} is a number, not {value!r}")
            if name in ("tau_s", "tau_d") and not -1 <= value <= 1:
                raise SettingsError(f"adatp: {name} is a cosine, in [-1, 1], not {value}")
        if not self.tau_r > 0:
            raise SettingsError(f"adatp: tau_r must be above 0, not {self.tau_r}")
        if not 0 <= self.even <= 1:
            raise SettingsError(f"adatp: even is a share of tokens, in [0, 1], not {self.even}")
        size: object = self.cache_mib
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise SettingsError(f"adatp: cache_mib is a number of MiB, 0 or more, not {size!r}")

    @classmethod
    def read(cls, additional_config: object) -> Settings | None:
        """The settings in vLLM's additional config; None if it does not name the plugin.

        Raises:
            SettingsError: an unknown setting, or a value that makes no sense.
        """
        if not isinstance(additional_config, Mapping) or "adatp" not in additional_config:
            return None
        given = additional_config["adatp"]
        known = [field.name for field in fields(cls)]
        if not isinstance(given, Mapping):
            raise SettingsError(
                f"adatp: settings are an object with any of {', '.join(known)}, not {given!r}"
            )
        if unknown := [name for name in given if name not in known]:
            raise SettingsError(f"adatp: no setting {unknown[0]!r}; there are {', '.join(known)}")
        return cls(**given)

    @property
    def thresholds(self) -> Thresholds:
        """Thresholds for the choice of tokens."""
        return Thresholds(self.tau_s, self.tau_d, self.tau_r, self.even)

    def digest(self, rate: float, words: tuple[int, ...]) -> str:
        """A short name of all that decides what stays of a video: settings, rate, the question's words."""
        said: dict[str, Any] = {**asdict(self), "rate": rate, "words": words if self.question else ()}
        return blake2b(repr(sorted(said.items())).encode(), digest_size=8).hexdigest()
