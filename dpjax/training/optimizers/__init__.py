"""Transformations of private gradients beside those of optax: post-processing, which costs no ε."""
