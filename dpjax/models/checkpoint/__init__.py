"""Hugging Face checkpoint folders: configuration, weights, tokenizer, labels."""
