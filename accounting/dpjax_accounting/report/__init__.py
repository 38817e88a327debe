"""The privacy report: its claim, its schema, its check, its page."""
