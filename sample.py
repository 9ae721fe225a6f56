from echodream.cli import sample

if __name__ == "__main__":
    sample()
