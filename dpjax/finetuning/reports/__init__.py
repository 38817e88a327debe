"""What a run says: its result, its privacy report, its page."""
