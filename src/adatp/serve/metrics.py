"""The server's counters, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from adatp.serve.protocol import Usage

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.answered = Counter("adatp_http_responses", "Responses by status.", ["status"], registry=registry)
        self.cancelled = Counter(
            "adatp_requests_cancelled", "Requests whose client hung up.", registry=registry
        )
        self.prompt_tokens = Counter(
            "adatp_prompt_tokens", "Tokens of prompts before pruning.", registry=registry
        )
        self.kept_tokens = Counter(
            "adatp_kept_tokens", "Tokens of prompts left in the last layer.", registry=registry
        )
        self.answer_tokens = Counter("adatp_completion_tokens", "Tokens of answers.", registry=registry)
        self.flops_ratio = Histogram(
            "adatp_prefill_flops_ratio",
            "FLOPs of prefills over vanilla's.",
            ["method"],
            buckets=(0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
            registry=registry,
        )
        self.batch_rows = Histogram(
            "adatp_batch_rows", "Answers in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.first_token = Histogram(
            "adatp_time_to_first_token_seconds",
            "From the request to its first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.seconds = Histogram(
            "adatp_request_seconds", "From the request to its answer.", buckets=_SECONDS, registry=registry
        )

    def show(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read from a function on demand."""
        Gauge(name, meaning, registry=self.registry).set_function(value)

    def note(self, usage: Usage, seconds: float) -> None:
        """Count one answered request and its costs."""
        self.prompt_tokens.inc(usage.prompt_tokens)
        self.kept_tokens.inc(usage.kept_tokens)
        self.answer_tokens.inc(usage.completion_tokens)
        self.flops_ratio.labels(usage.method).observe(usage.flops_ratio)
        self.seconds.observe(seconds)

    def text(self) -> bytes:
        """All counters in the format of Prometheus."""
        return generate_latest(self.registry)
