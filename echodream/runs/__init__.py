"""How a stage or a training is run: trainer, atomic folders, the cache of finished stages, prediction over a Store."""
