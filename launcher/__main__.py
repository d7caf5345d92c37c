"""python -m launcher: see launcher.cli."""

from launcher.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
