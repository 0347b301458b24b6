"""Operating a namespace: one service behind every door."""
