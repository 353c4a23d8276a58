"""Examples at the end of ``adatp COMMAND --help``: a purpose, and the command for it."""

from __future__ import annotations

from rich.markup import escape

QWEN = "Qwen/Qwen2.5-VL-7B-Instruct"

EXAMPLES: dict[str, dict[str, str]] = {
    "ask": {
        "Ask the small model that ships with adatp about a clip that ships too": "adatp ask --compare",
        "Ask your own model about your own video, pruned and unpruned": (
            f'adatp ask holiday.mp4 "What does the dog fetch?" --model {QWEN} --compare'
        ),
        "Spend less, and write all figures to a file": (
            f'adatp ask holiday.mp4 "Who waves?" --model {QWEN} --flops 0.15 --json out.json'
        ),
    },
    "run": {
        "Answer the questions of a file, and go on where a run was stopped": (
            f"adatp run rows.jsonl --out answers --model {QWEN}"
        ),
        "Do the second of eight parts, on another machine": "adatp run rows.jsonl --out answers --shard 2/8",
    },
    "show": {
        "Draw what is kept of the shipped clip": "adatp show --out shown",
        "Compare with VisionZip on your own video": (
            f'adatp show holiday.mp4 "Who waves?" --model {QWEN} --against visionzip --out shown'
        ),
    },
    "demo": {
        "Open the page with the embedded model": "adatp demo",
        "Open it with your model, on a port of your choice": f"adatp demo --model {QWEN} --port 7861",
    },
    "serve": {
        "Serve a model at http://127.0.0.1:8000/v1": f"adatp serve --model {QWEN}",
        "Ask for a key, and spend 15 % of the FLOPs unless a request says otherwise": (
            f"adatp serve --model {QWEN} --flops 0.15 --api-key-file keys.txt"
        ),
    },
    "models": {"List the supported model types": "adatp models"},
    "flops": {
        "See what four targets leave of 64 frames": f"adatp flops --model {QWEN} --frames 64",
        "Try a target of your own, with frames of another size": (
            f"adatp flops --model {QWEN} --flops 0.2 --size 640x360"
        ),
    },
    "doctor": {
        "Look at what is installed": "adatp doctor",
        "Ask whether a model fits, before its weights are downloaded": (
            f"adatp doctor --model {QWEN} --frames 64 --flops 0.15"
        ),
    },
    "convert": {
        "Convert a LLaVA-Video checkpoint that lies on your disk": (
            "adatp convert llava-video LLaVA-Video-7B-Qwen2 converted"
        ),
    },
    "eval": {
        "Compare all methods at equal FLOPs": "adatp eval --limit 200 --json eval.json --plot eval.png",
        "Compare two of them with vanilla, on longer clips": (
            "adatp eval --methods vanilla,adatp,fastv --frames 32 --flops 0.15"
        ),
    },
    "ablate": {"Change one thing of AdaTP at a time": "adatp ablate --limit 200 --flops 0.1"},
    "bias": {
        "Measure the embedded model": "adatp bias --limit 20",
        "Measure your own model on your own clips": (
            f"adatp bias --model {QWEN} --videos clips/ --json bias.json --plot figures"
        ),
    },
    "paper": {
        "Write down a plan to start from": "adatp paper --show-plan",
        "Run a plan, and go on where it was stopped": "adatp paper plan.toml --out paper",
    },
}

OVERVIEW = {
    "Start here": "adatp ask --compare",
    "Look at what is installed": "adatp doctor",
}


def epilog(examples: dict[str, str]) -> str:
    """The end of a help text: examples, one paragraph each."""
    return "\n\n".join(f"[dim]{escape(what)}:[/]\n  {escape(command)}" for what, command in examples.items())
