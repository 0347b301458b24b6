"""Makes the library at home in frameworks and databases. Nothing here is imported unless you ask for it."""
