"""What a run would cost in noise, memory and time, before anything is loaded or spent."""
