"""`hsyn ants`: command lines of ANTs, word for word."""
