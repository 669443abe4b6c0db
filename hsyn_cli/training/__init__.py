"""Training of SN-Net and DI-Net, as `hsyn train` does it."""
