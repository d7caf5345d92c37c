"""One command line: which verb answers, and how everything ends: exit codes, one-line errors.

Owns: the choice of the verb, what an error becomes. Must not know: what a launch or a verb does.

Each verb is a module, which has its EXAMPLES, its `arguments` and a function of the module's name. Only the one that
was typed is imported: the verbs stay quick.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from launcher import __version__
from launcher.cli.arguments import DONE, FAILED, VERBS, WRONG, Parser, as_called, folder, folder_given, program
from launcher.cli.complete import LAUNCH, MODULES, candidates, words_of
from launcher.errors import PrefsweepError, UsageError, near_choice
from launcher.machine import disk, rights
from launcher.machine.default_folder import OUTPUT_DIR, default_output_dir
from launcher.machine.terminal import OUTPUT, complain, prepare_streams, say, until_unread


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 something failed, 2 the command or config was wrong."""
    argv = list(sys.argv[1:] if argv is None else argv)
    prepare_streams()
    if not os.environ.get(OUTPUT_DIR):
        os.environ.pop(OUTPUT_DIR, None)  # an empty variable is none, also where the configuration asks for it
    gc.set_threshold(100_000)  # of thousands of runs there are many plain values, and hardly a cycle to be looked for
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
    if list(argv) == ["--version"]:  # a launch knows it too, and waits for its imports
        say(f"prefsweep {__version__}")
        return DONE
    if not argv or argv[0] not in VERBS:
        from launcher.cli.launch import launch

        _check_verb(argv[0] if argv else "")
        return launch(argv[1:] if argv and argv[0] == LAUNCH else argv)
    if argv[0] == "completion" and argv[1:2] in (["--line"], ["--words"]):  # asked by its scripts
        for each in candidates(words_of(argv[2]) if argv[1] == "--line" else argv[2:]):
            say(each)
        return DONE
    name = argv[0]
    options = verb_parser(name).parse_intermixed_args(_with_folder(argv[1:]))
    options.folder_given = options.output_dir is not None
    options.output_dir = options.output_dir or default_output_dir()
    code: int = getattr(_verb(name), MODULES.get(name, name))(options)
    return code


def _check_verb(word: str) -> None:
    """That a first word, which may be an override or an option, is no verb that there is not.

    Raises:
        UsageError: it is.
    """
    if word and word != LAUNCH and "=" not in word and not word.startswith(("-", "~", "+")):
        known = [LAUNCH, *VERBS]
        near = near_choice(word, known)
        raise UsageError(f"{word}: no such verb{near}; there are: {', '.join(known)}; a launch takes key=value")


def _with_folder(words: Sequence[str]) -> list[str]:
    """What a verb was given, with the folder of everything said as an option: it may be said as when launching, too."""
    said = [word for word in words if word.startswith("output_dir=")]
    given = [word for word in words if word.partition("=")[0] == "--output-dir"]
    if len(said) + len(given) > 1:
        raise UsageError(f"{(said or given)[0]}: the folder is given twice; give one, --output-dir FOLDER")
    rest = [word for word in words if word not in said]
    return [*(f"--output-dir={folder_given(word)}" for word in said), *rest]


def _verb(name: str) -> Any:
    return importlib.import_module(f"launcher.cli.{MODULES.get(name, name)}")


def verb_parser(name: str) -> Parser:
    """What this verb may be given; its help has examples."""
    verb = _verb(name)
    parser = Parser(
        prog=f"{program()} {name}",
        description=VERBS[name],
        epilog="examples:\n" + "\n".join(f"  {as_called(example)}" for example in verb.EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verb.arguments(parser)
    where = f"where everything is; default: ${OUTPUT_DIR}, else outputs"
    told = argparse.SUPPRESS if name in ("run", "completion") else where  # a RUN_DIR says it, a script has none
    parser.add_argument("--output-dir", type=folder, metavar="FOLDER", help=told)
    return parser
