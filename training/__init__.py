"""Trains and ships the embedded model. Runs from a checkout only: the wheel has no part of this.

Start the scripts from the top folder: ``python -m training.train``, then ``python -m training.export``.
"""
