"""Audits by training: of one finished run, and of many runs on poisoned records."""
