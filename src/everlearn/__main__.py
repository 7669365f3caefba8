"""`python -m everlearn`, and what launchers start: `accelerate launch -m everlearn train`."""

from everlearn.cli import main

if __name__ == "__main__":
    main()
