"""Trains the second embedded model on `adatp.scenes`; training/README.md says how."""
