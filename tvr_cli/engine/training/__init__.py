"""What `engine.train` is made of: samples and draws, the step, optimizers, checkpoints, guard rails."""
