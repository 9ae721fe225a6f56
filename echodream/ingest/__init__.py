"""Raw study -> Store: one file per source, where every vendor quirk ends."""
