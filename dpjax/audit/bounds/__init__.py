"""Lower bounds on ε from the guesses of an attack, and what each of them rests on."""
