"""The command line as ``python -m autoemb``."""

from autoemb.cli import main

if __name__ == "__main__":
    main()
