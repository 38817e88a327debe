"""Scores that are higher for members: of texts, of classified records, and from gradients."""
