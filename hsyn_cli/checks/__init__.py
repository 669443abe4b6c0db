"""Checks before a run: of images and pairs (`hsyn check`), and of the installation (`doctor`)."""
