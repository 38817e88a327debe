"""What a step needs: read from its compiled programs, before anything is loaded or run."""
