"""What elk_coordinator reaches, each figure beside its limit of the same run and its goal. ``make bench``."""
