"""Training a method: the loop and what it is made of, runs under several seeds, and repeating a run."""
