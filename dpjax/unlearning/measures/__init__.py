"""What a model still knows of records, and how near that is to a model that never saw them."""
