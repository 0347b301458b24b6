"""What an operator sees of a running coordinator: metrics and the built-in HTTP thread.

Nothing is imported here: ``metrics`` is the only module that needs prometheus_client.
"""
