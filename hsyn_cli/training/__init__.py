"""Training of SN-Net and DI-Net: `python -m hsyn_cli.training --help`."""
