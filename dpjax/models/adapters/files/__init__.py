"""Adapters as folders in the layout of peft: read, written, checked."""
