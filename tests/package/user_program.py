"""What a user may write: it is type-checked against the installed package, and run."""

from __future__ import annotations

from adatp import AdaTP, Answer, Report, Session, tiny
from adatp.methods import METHODS, FastV, Method


def work(report: Report) -> tuple[float, list[int]]:
    """The part of vanilla's FLOPs, and the visual tokens of each layer."""
    return report.flops_ratio, [tokens for (tokens,) in report.visual_tokens]


def main() -> None:
    session = Session()
    methods: list[Method] = [METHODS["vanilla"](), AdaTP(flops=0.273), FastV(flops=0.5)]
    for method in methods:
        answer: Answer = session.ask(tiny.CLIP, tiny.QUESTION, method, frames=16)
        ratio, tokens = work(answer.report)
        print(method.name, answer.text, f"{ratio:.2f}", tokens[0] > tokens[-1])


if __name__ == "__main__":
    main()
