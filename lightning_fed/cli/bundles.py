"""Common part of ``lightning-fed configs`` and ``lightning-fed examples``: list, show, copy."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_fed.cli.bundled import Bundle, text_of
from lightning_fed.cli.commands import PROGRAM, refuse
from lightning_fed.cli.one_line_parser import OneLineParser


def answer(bundle: Bundle, hint: str, arguments: Sequence[str]) -> None:
    """List the files of a bundle, print one, or copy one.

    Args:
        bundle: The files.
        hint: How one is used, for the end of the list.
        arguments: What follows the name of the command.

    Raises:
        SystemExit: With the status 2 and a sentence on standard error, if they are wrong or the file is not written.
    """
    command, kind = bundle.folder, bundle.kind
    parser = OneLineParser(
        prog=f"{PROGRAM} {command}", allow_abbrev=False, description=f"The {command} that come with lightning_fed."
    )
    parsers = parser.add_subparsers(dest="action", metavar="{list,show,copy}")
    parsers.add_parser(
        "list", allow_abbrev=False, help=f"the {command}, each in a line; this is done without a word, too"
    )
    parsers.add_parser("show", allow_abbrev=False, help=f"print one {kind}").add_argument("name", metavar="NAME")
    copy = parsers.add_parser("copy", allow_abbrev=False, help=f"write a copy of one {kind}, to change it")
    copy.add_argument("name", metavar="NAME")
    copy.add_argument("to", metavar="TO", nargs="?", help="a file, or a folder; by default the current folder")
    copy.add_argument("--force", action="store_true", help="replace a file that is there")
    args = parser.parse_args(list(arguments))
    try:
        if args.action == "show":
            print(text_of(bundle.get(args.name)), end="")
        elif args.action == "copy":
            print(f"wrote {bundle.copy(args.name, args.to, args.force)}")
        else:
            print(f"{bundle.listed()}\n\n{hint}; change one: {PROGRAM} {command} copy NAME")
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        says = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        refuse(says, f"{PROGRAM} {command}")
