"""python -m launcher: see launcher.cli.main."""

import gc

from launcher.cli.main import main

if __name__ == "__main__":
    gc.set_threshold(100_000)  # of thousands of runs there are many plain values, and hardly a cycle to be looked for
    raise SystemExit(main())
