"""Loss terms: pure functions and small modules, switched on and weighted by yaml."""
