"""A page to try pruning on: ``adatp demo``. Only this package uses gradio; the extra ``demo`` installs it."""
