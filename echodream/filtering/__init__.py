"""The privacy filter: it generates copies, embeds and scores samples, and records the decision."""
