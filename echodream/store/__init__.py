"""Store: a folder of recordings, the input and output of stages. Specification: docs/format.md."""

from echodream.store.reader import Store, open_complete
from echodream.store.schema import Dataset, Statistics, StoreError
from echodream.store.verify import find_problems, verify
from echodream.store.writer import StoreWriter

__all__ = ["Dataset", "Statistics", "Store", "StoreError", "StoreWriter", "find_problems", "open_complete", "verify"]
