"""Audits of `fit`: who has a coin, how units are scored, and what is reported."""
