"""Threads, time, retries, exit and fork: the only room that makes threads or waits."""
