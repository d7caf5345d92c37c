"""One command line: which verb answers, and how everything ends: exit codes, one-line errors.

Owns: the choice of the verb, what an error becomes. Must not know: what a launch or a verb does.

Each verb is a module of its name, which has its EXAMPLES, its `arguments` and a function of its name. Only the one that
was typed is imported: the verbs stay quick.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.cli.arguments import FAILED, VERBS, WRONG, Parser, folder_given
from launcher.errors import PrefsweepError, UsageError
from launcher.machine import disk, rights
from launcher.machine.terminal import OUTPUT, complain, prepare_streams, until_unread
from launcher.store.output_folder import DEFAULT_OUTPUT_DIR


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 something failed, 2 the command or config was wrong."""
    argv = list(sys.argv[1:] if argv is None else argv)
    prepare_streams()
    return until_unread(lambda: _ended(argv))


def _ended(argv: Sequence[str]) -> int:
    try:
        return _answer(argv)
    except PrefsweepError as error:
        complain(str(error))
        return WRONG if isinstance(error, UsageError) else FAILED
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on where it was")
        return FAILED
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, a folder without rights: not ours to mend
        if error.filename == OUTPUT:
            raise
        complain(disk.fault(error, then="try") or rights.denied(error) or _in_words(error))
        return FAILED


def _in_words(error: OSError) -> str:
    return f"{error.filename or 'cannot read or write'}: {error.strerror or error}"


def _answer(argv: Sequence[str]) -> int:
    if not argv or argv[0] not in VERBS:
        from launcher.cli.launch import launch

        return launch(argv)
    name = argv[0]
    code: int = getattr(_verb(name), name)(verb_parser(name).parse_intermixed_args(_with_folder(argv[1:])))
    return code


def _with_folder(words: Sequence[str]) -> list[str]:
    """What a verb was given, with the folder of everything said as an option: it may be said as when launching, too."""
    said = [word for word in words if word.startswith("output_dir=")]
    given = [word for word in words if word.partition("=")[0] == "--output-dir"]
    if len(said) + len(given) > 1:
        raise UsageError(f"{(said or given)[0]}: the folder is given twice; give one, --output-dir FOLDER")
    rest = [word for word in words if word not in said]
    return [*(f"--output-dir={folder_given(word)}" for word in said), *rest]


def _verb(name: str) -> Any:
    return importlib.import_module(f"launcher.cli.{name}")


def verb_parser(name: str) -> Parser:
    """What this verb may be given; its help has examples."""
    verb = _verb(name)
    parser = Parser(
        prog=f"python -m launcher {name}",
        description=VERBS[name],
        epilog="examples:\n" + "\n".join(f"  {example}" for example in verb.EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verb.arguments(parser)
    folder = argparse.SUPPRESS if name == "run" else "where everything is (default: outputs)"  # its RUN_DIR says that
    parser.add_argument("--output-dir", type=Path, default=Path(DEFAULT_OUTPUT_DIR), help=folder)
    return parser
