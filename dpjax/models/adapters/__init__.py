"""Low-rank adapters: where they go, what is trained, and peft's files."""
