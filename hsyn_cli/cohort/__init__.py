"""Many pairs, one command: lists, a supervisor with warm workers, status files, a page."""
