"""A run of `fit` with a folder: what is in it, what must stay the same, and when it is written."""
