"""What a run writes, shows, and is read back from."""
