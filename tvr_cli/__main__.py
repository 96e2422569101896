"""`python -m tvr_cli`: the command line, where the script `tvr` is not on the path."""

from tvr_cli.cli import main

if __name__ == "__main__":
    main()
