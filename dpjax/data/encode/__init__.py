"""Records as token ids and masks."""
