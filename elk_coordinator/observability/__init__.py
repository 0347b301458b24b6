"""What an operator sees of a running coordinator: metrics and the built-in HTTP thread.

Nothing is imported here. Only ``metrics`` imports prometheus_client.
"""
