"""Attacks that tell members from non-members, and their uncertainty."""
