"""Discrete noise for sums of whole numbers: exact, without floating point."""
