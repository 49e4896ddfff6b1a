"""``python -m minipuzzle`` (what torchrun starts)."""

from minipuzzle.cli import main

if __name__ == "__main__":
    main()
