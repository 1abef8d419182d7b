"""``python -m polygraph`` is the command line; torchrun starts it this way."""

from polygraph.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
