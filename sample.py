from echodream.cli import sample

sample()
