"""tvr: text-video retrieval from the command line. Import `tvr_cli.engine` functions to script the same steps."""

__version__ = "0.1.0"
