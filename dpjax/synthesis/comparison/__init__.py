"""Measures that look at private records: nothing of them belongs beside what is published."""
