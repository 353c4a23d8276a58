"""Time of the decoder's prefill and of a decode step, vanilla and pruned, interleaved in one run.

A LLaVA-OneVision of real width with random weights (the vision tower is a stand-in: it is not what is timed).
Prints medians and their ratio to vanilla beside the ratio of FLOPs. `--json` writes the same.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from adatp import AdaTP
from adatp.methods import Method, Vanilla

SHAPES = {
    "llava-onevision-0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14,
                             "num_key_value_heads": 2, "num_hidden_layers": 24},
    "llava-onevision-7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28,
                           "num_key_value_heads": 4, "num_hidden_layers": 28},
}  # fmt: skip
IMAGE, VIDEO, STEPS = 900, 901, 8


def build(shape: str, layers: int | None, dtype: torch.dtype, device: str) -> Any:
    text = Qwen2Config(vocab_size=1000, max_position_embeddings=1 << 20, eos_token_id=None, **SHAPES[shape])
    if layers:
        text.num_hidden_layers, text.layer_types = layers, ["full_attention"] * layers
    vision = SiglipVisionConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=384,
        patch_size=14,
        vision_use_head=False,
    )
    config = LlavaOnevisionConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    torch.manual_seed(0)
    with torch.device(device):
        return LlavaOnevisionForConditionalGeneration(config).to(dtype).eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="llava-onevision-0.5b")
    parser.add_argument("--layers", type=int, help="fewer decoder layers, for small machines")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--flops", default="0.273,0.15")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of torch, on a CPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    dtype = getattr(torch, options.dtype)
    model = build(options.shape, options.layers, dtype, options.device)
    methods: list[Method] = [Vanilla(), *(AdaTP(flops=float(f)) for f in options.flops.split(","))]
    ids = torch.tensor([[5] * 10 + [VIDEO] * (options.frames * 196 + 1) + [7] * 20], device=options.device)
    pixels = torch.randn(1, options.frames, 3, 384, 384, dtype=dtype, device=options.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}

    reports: dict[int, list[Any]] = {number: [] for number in range(len(methods))}
    for _ in track(range(options.repeats + 1), console=Console(stderr=True)):
        for number, method in enumerate(methods):
            with method(model) as run, torch.inference_mode():
                model.generate(**inputs, do_sample=False, min_new_tokens=STEPS + 1, max_new_tokens=STEPS + 1)
            reports[number].append(run.report)

    rows = []
    base: dict[str, float] = {}
    for number, method in enumerate(methods):
        runs = [report.milliseconds for report in reports[number][1:]]  # the first is a warm-up
        prefill = median(ms["prefill"] + ms["relevance"] for ms in runs)
        step = median(ms["decode"] for ms in runs) / STEPS
        base = base or {"prefill": prefill, "step": step}
        rows.append(
            {
                "method": method.name,
                "model": options.shape,
                "layers": model.config.text_config.num_hidden_layers,
                "device": options.device,
                "dtype": options.dtype,
                "frames": options.frames,
                "batch": 1,
                "flops_ratio": reports[number][0].flops_ratio,
                "prefill_ms": prefill,
                "prefill_ratio": prefill / base["prefill"],
                "decode_ms": step,
                "decode_ratio": step / base["step"],
            }
        )
    table = Table("method", "FLOPs", "prefill (with relevance)", "of vanilla", "decode step", "of vanilla")
    for row in rows:
        table.add_row(
            row["method"],
            f"{row['flops_ratio']:.1%}",
            f"{row['prefill_ms']:.0f} ms",
            f"{row['prefill_ratio']:.1%}",
            f"{row['decode_ms']:.1f} ms",
            f"{row['decode_ratio']:.1%}",
        )
    machine = f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    Console().print(f"{options.shape}, {rows[0]['layers']} layers, {options.frames} frames, {machine}")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
