"""Publishing on the Hugging Face hub: checks, cards, upload."""
