"""Training of the second embedded model, on `adatp.scenes`; how: training/scenes/README.md."""
