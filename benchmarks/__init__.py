"""Speed, side by side with what a reader would use instead: run it with ``make bench``."""
