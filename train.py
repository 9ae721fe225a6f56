from echodream.cli import train

train()
