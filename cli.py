"""Thin launcher: ``python cli.py`` works from a checkout that is not installed."""

from minipuzzle.cli import main

if __name__ == "__main__":
    main()
