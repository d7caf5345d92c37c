"""python -m launcher: the same program as the command `prefsweep`; see launcher.cli.main."""

from launcher.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
