"""Training of SN-Net and DI-Net for `hsyn train`."""
