"""Networks whose features samples are compared by: arguments of ``stage=evaluate``, from local files."""
