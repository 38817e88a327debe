"""Drawing texts: which ones, by which keys, and the file that keeps them."""
