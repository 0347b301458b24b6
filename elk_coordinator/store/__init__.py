"""Where coordination data lives: the DataStore extension point and its Redis implementation."""
