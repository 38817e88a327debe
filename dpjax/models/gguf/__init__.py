"""GGUF files, the format of llama.cpp, as Hugging Face checkpoint folders."""
