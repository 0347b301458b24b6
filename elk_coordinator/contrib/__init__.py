"""Bridges to what the library does not depend on: databases and frameworks. Each is imported by name, when wanted."""
