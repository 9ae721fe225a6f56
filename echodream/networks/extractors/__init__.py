"""Feature extractors of ``stage=evaluate``, loaded from local files."""
