"""A page to try pruning on: ``adatp demo``. Only here gradio is known; the extra ``demo`` brings it."""
