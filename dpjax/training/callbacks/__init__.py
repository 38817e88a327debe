"""Whoever wants to be told of the steps of a run, and its progress on a console."""
