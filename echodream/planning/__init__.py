"""What ``stage=plan`` computes: the content of a study, the time and memory of each model, and an experiment file."""
