"""Lightning callbacks and loggers: EMA, previews, plots, Weights & Biases, the writer of predictions."""
