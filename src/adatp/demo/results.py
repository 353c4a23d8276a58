"""The page's results as HTML: answers with their costs, the kept patches, or why there is nothing."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from adatp.demo.asking import Comparison
from adatp.kept_page import render_html
from adatp.session import Answer
from adatp.units import amount, milliseconds

WELCOME = """<div class="adatp-note"><p>Pick a clip, ask a question, press <b>Ask</b>.</p>
<p>The model answers twice: <b>vanilla</b>, reading every visual token, and <b>pruned</b>, within the
share of its FLOPs that you allow. Below the answers you see which patches of each frame survive, layer by
layer.</p></div>"""

STAGES = ("vision", "relevance", "prefill", "decode")


def message(text: str) -> str:
    """The HTML of a reason why there is no answer."""
    return f'<div class="adatp-note adatp-refused" role="alert">{escape(text)}</div>'


def answers(comparison: Comparison) -> str:
    """Answers side by side, and under each its cost."""
    vanilla = comparison.answers[0]
    cards = [_card(answer, vanilla) for answer in comparison.answers]
    cards += [
        f'<div class="adatp-card"><h3>{escape(name)}</h3><p class="adatp-refused">{escape(why)}</p></div>'
        for name, why in comparison.refused.items()
    ]
    return f'<div class="adatp-cards">{"".join(cards)}</div>{_table(comparison.answers)}'


def gallery(comparison: Comparison) -> str:
    """The page of kept patches, in its own frame that can't affect the page around it."""
    page = render_html(comparison.video, comparison.question, comparison.answers[::-1])
    return (
        '<iframe class="adatp-gallery" title="kept patches" sandbox="allow-scripts" '
        f'srcdoc="{escape(page)}"></iframe>'
    )


def _card(answer: Answer, vanilla: Answer) -> str:
    name = answer.report.method
    same = answer.text == vanilla.text
    verdict = "every token" if answer is vanilla else "same answer" if same else "another answer"
    return (
        f'<div class="adatp-card"><h3>{escape(name)}<small>{verdict}</small></h3>'
        f"<p>{escape(answer.text) or '(no words)'}</p></div>"
    )


def _table(runs: list[Answer]) -> str:
    rows: list[str] = []

    def row(label: str, cell: Callable[[Answer], str]) -> None:
        cells = "".join(f"<td>{cell(run)}</td>" for run in runs)
        rows.append(f'<tr><th scope="row">{label}</th>{cells}</tr>')

    row(
        "visual tokens",
        lambda run: f"{sum(run.report.prompt_visual_tokens)} → {sum(run.report.visual_tokens[-1])}",
    )
    row("FLOPs of the prefill", lambda run: amount(run.report.flops.decoder))
    row("of vanilla's", lambda run: f"{run.report.flops_ratio:.1%}")
    times = {id(run): run.report.milliseconds for run in runs}
    for stage in STAGES:
        row(f"time: {stage}", lambda run, stage=stage: milliseconds(times[id(run)].get(stage, 0)))  # type: ignore[misc]
    row("time: all", lambda run: milliseconds(run.milliseconds))
    names = "".join(f'<th scope="col">{escape(run.report.method)}</th>' for run in runs)
    return (
        f'<div class="adatp-scroll"><table><thead><tr><th></th>{names}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="adatp-small">Visual tokens from the prompt to the last layer. Real FLOPs of the '
        "decoder's prefill, scoring included. Times of one run, after a short warm-up of each.</p>"
    )
