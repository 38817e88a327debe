"""What is found before anything is computed: the run, its records, the folder."""
