"""An audit in words and pictures."""
