"""Writes a small random model that vLLM can serve on a CPU, to try the plugin with.

Run it in an environment with vLLM (`make vllm`): python benchmarks/vllm_small.py FOLDER

It has Qwen3-VL's form, which vLLM and adatp can prune. Its answers mean nothing, but take their time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"


def write(folder: Path) -> Path:
    """Write the checkpoint and its processor into a folder."""
    sys.path[:0] = [str(TESTS / "support"), str(TESTS / "vllm_plugin")]
    import checkpoints

    checkpoints.TEXT.update(
        hidden_size=512, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=8
    )
    checkpoints.QWEN_VISION.update(out_hidden_size=512)
    return checkpoints.write("qwen3_vl", folder)


def main() -> None:
    """Write it where the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    print(write(parser.parse_args().folder))


if __name__ == "__main__":
    main()
