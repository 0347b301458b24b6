"""Partitions in the store: strategies, codecs, intervals, and the Lua that moves a partition."""
