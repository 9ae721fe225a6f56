"""What ``stage=publish`` is made of: the checks that refuse, the cards, the way to the hub."""
