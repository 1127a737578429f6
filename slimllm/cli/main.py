"""The command line, `python -m slimllm …`.

With --json, one JSON object is on stdout and everything else on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slimllm.calibration import distributed
from slimllm.cli import commands, export_commands, option_checks
from slimllm.cli.credentials import VARIABLE
from slimllm.cli.terminal import Report, print_answer, show_card, spare_letters
from slimllm.core.errors import Refusal, without_tokens
from slimllm.core.failures import is_failure, is_interruption, sentence_of
from slimllm.core.json_io import to_plain_json
from slimllm.core.types import check_seed
from slimllm.export.formats import FORMS
from slimllm.files import atomic_write
from slimllm.files.paths import home_folder, path_of
from slimllm.methods.recovery import RECOVERIES
from slimllm.methods.table import METHODS
from slimllm.planning.allocation import ALLOCATIONS
from slimllm.pruning.finetuning import Tuning
from slimllm.pruning.stopping import left_by

OK, REFUSED, CANCELLED = 0, 2, 130
Command = Callable[[argparse.Namespace, Report], dict[str, Any] | None]


class Parser(argparse.ArgumentParser):
    """A parser that reports errors as one sentence with exit status 2."""

    # The parsers of the commands.
    kinds: Any

    def forget_defaults(self) -> None:
        """Return only options that are given from now on, without defaults."""
        for action in self._actions:
            action.default = argparse.SUPPRESS

    def error(self, message: str) -> Any:
        """Raise `Refusal` with argparse's message as one sentence."""
        raise Refusal(f"{message[0].upper()}{message[1:].rstrip('.')}; see '{self.prog} --help'.")


def parse_path(words: str) -> Path:
    """Return a path of the command line; raise `ArgumentTypeError` if it cannot be one."""
    try:
        return path_of(words)
    except Refusal as refusal:
        raise argparse.ArgumentTypeError(str(refusal)) from None


def parse_seed(words: str) -> int:
    """Return a seed of the command line; raise `ArgumentTypeError` if it is not valid."""
    try:
        return check_seed(int(words))
    except Refusal as refusal:
        raise argparse.ArgumentTypeError(str(refusal)) from None
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid seed value: {words!r}") from None


def shared_options() -> dict[str, Parser]:
    """Return groups of options that several commands share, as parent parsers by name."""
    names = ("common", "model", "reading", "scoring", "sizing", "measuring", "writing")
    groups = {name: Parser(add_help=False) for name in names}

    add = groups["common"].add_argument
    add("--json", action="store_true", help="print one JSON object on stdout")
    add(
        "--device",
        default="auto",
        help="auto (an accelerator if one is here), cpu, cuda, cuda:n, xpu, xpu:n or mps",
    )
    add("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    add("--seed", type=parse_seed, default=0, help="for sampling of text and generation")
    add("--offline", action="store_true", help="never ask the model hub")

    add = groups["model"].add_argument
    add("--model", required=True, help="smollm2, a hub id, a folder or a .gguf file")

    add = groups["reading"].add_argument
    add("--text", default="encyclopedia", help="calibration text: a name or a file")
    add("--samples", type=int, default=64, help="calibration samples")
    add("--length", type=int, default=256, help="tokens per sample")

    add = groups["scoring"].add_argument
    add("--method", default="slimllm", help=f"one of: {', '.join(METHODS)}")
    add("--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the method")

    add = groups["sizing"].add_argument
    add("--allocation", help=f"one of: {', '.join(ALLOCATIONS)}")
    add("--recovery", help=f"one of: {', '.join(RECOVERIES)}")
    add("--unit", default="auto", help="what attention loses: kv-group, query-head or auto")
    add("--align", type=int, default=8, help="channels in multiples of this")
    add("--count", default="decoder", choices=("decoder", "all"), help="what the ratio is a share of")
    add("--same-width", action="store_true", help="keep every layer equally wide (a standard checkpoint)")

    add = groups["measuring"].add_argument
    add("--text", default="encyclopedia", help="evaluation text: a name or a file")
    add("--window", type=int, default=128, help="tokens per window")
    add("--limit-tokens", type=int, help="read no more than this many tokens")

    add = groups["writing"].add_argument
    add("--max-new-tokens", type=int, default=64)
    add("--temperature", type=float, default=0.0)
    return groups


def build_parser(serve: Command = commands.refuse_serve) -> Parser:
    """Return the parser of all commands; `serve` carries out the command of this name."""
    top = Parser(
        prog="slimllm", description="See what matters inside a language model, and cut the rest away."
    )
    kinds = top.add_subparsers(dest="command", required=True, parser_class=Parser, metavar="COMMAND")
    top.kinds, groups = kinds, shared_options()

    def add_command(name: str, words: str, run: Command, *shared: str) -> Parser:
        parents = [groups[group] for group in ("common", *shared)]
        found: Parser = kinds.add_parser(name, help=words, description=words, parents=parents)
        found.set_defaults(run=run, show=print_answer)
        return found

    analyse = add_command(
        "analyse", "score every head and channel", commands.run_analyse, "model", "reading", "scoring"
    )
    analyse.add_argument("--out", required=True, type=parse_path, metavar="DIR")

    plan = add_command("plan", "choose widths for a target size", commands.run_plan, "sizing")
    plan.add_argument("--analysis", required=True, type=parse_path, metavar="DIR")
    plan.add_argument("--ratio", required=True, type=float, help="share of parameters to remove, 0 to 1")
    plan.add_argument("--out", required=True, type=parse_path, metavar="plan.json")

    prune = add_command(
        "prune",
        "prune and export a checkpoint",
        export_commands.run_prune,
        "model",
        "reading",
        "scoring",
        "sizing",
    )
    prune.add_argument(
        "--plan", type=parse_path, metavar="plan.json", help="a plan to follow, or else --ratio"
    )
    prune.add_argument("--ratio", type=float, help="share of parameters to remove, 0 to 1")
    add_target(prune)

    add_tune(
        add_command(
            "tune", "fine-tune a pruned model, merge and export it", export_commands.run_tune, "model"
        )
    )
    add_command("evaluate", "measure perplexity", commands.run_evaluate, "model", "measuring")
    generate = add_command("generate", "continue a prompt", commands.run_generate, "model", "writing")
    generate.add_argument("--prompt", required=True)

    compare = add_command(
        "compare", "several models side by side", commands.run_compare, "measuring", "writing"
    )
    compare.add_argument("--model", required=True, action="append", help="give it once per model")
    compare.add_argument("--prompt", action="append", default=[])

    add_card_and_push(add_command)
    add_command("methods", "list methods, recoveries, allocations and families", commands.run_methods)
    add_serve(add_command("serve", "start the app", serve))
    return top


def named_in(arguments: Sequence[str] | None) -> dict[str, Any]:
    """Return the options that a command line gives itself, by the names of their variables."""
    top = build_parser()
    for each in (top, *top.kinds.choices.values()):
        each.forget_defaults()
    return vars(top.parse_args(arguments))


def add_card_and_push(add_command: Callable[..., Parser]) -> None:
    """Add the commands with positional arguments."""
    card = add_command("card", "what can be done with a model, before any work", commands.run_card)
    card.add_argument("model", help="smollm2, a hub id, a folder or a .gguf file")
    card.set_defaults(show=show_card)
    push = add_command("push", "take an export to a repository of a model hub", export_commands.run_push)
    push.add_argument("folder", type=parse_path, help="a folder this program exported")
    push.add_argument("repository", help="OWNER/NAME; a new one will be private")


def add_target(maker: Parser) -> None:
    """Add the options for the place and form of a checkpoint."""
    maker.add_argument("--export", default="auto", choices=("auto", *FORMS))
    maker.add_argument("--out", required=True, type=parse_path, metavar="DIR")
    maker.add_argument(
        "--push", metavar="OWNER/NAME", help="a repository of the model hub to take it to, too"
    )


def add_tune(tune: Parser) -> None:
    """Add the options of fine-tuning, with the defaults of `Tuning`."""
    usual = Tuning()
    add = tune.add_argument
    add("--text", default=usual.text, help="the text to learn: a name or a file")
    add("--samples", type=int, default=usual.samples, help="pieces of text")
    add("--length", type=int, default=usual.length, help="tokens per piece")
    add("--epochs", type=int, default=usual.epochs, help="how often the text is read")
    add("--batch", type=int, default=usual.batch, help="pieces per step")
    add("--rank", type=int, default=usual.rank, help="rank of the adapters")
    add("--alpha", type=int, default=usual.alpha, help="adapters are scaled by alpha / rank")
    add("--rate", type=float, default=usual.rate, help="highest learning rate")
    add("--measure-on", metavar="TEXT", help="text for the perplexity, by default that of --text")
    add("--window", type=int, default=128, help="tokens per window")
    add("--limit-tokens", type=int, help="measure on no more than this many tokens")
    add_target(tune)


def add_serve(serve: Parser) -> None:
    """Add the options of the app."""
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=7860)
    serve.add_argument("--model", default="smollm2")
    serve.add_argument("--listen", action="store_true", help="answer other machines too; needs a password")
    serve.add_argument(
        "--auth-file",
        type=parse_path,
        metavar="FILE",
        help="ask for the user and password in this file, USER:PASSWORD, before anything is shown; "
        f"the environment variable {VARIABLE} does the same",
    )
    serve.add_argument(
        "--auth",
        metavar="USER:PASSWORD",
        help="the same on the command line, where other accounts of the machine can read it",
    )
    serve.add_argument(
        "--public-url",
        default="",
        metavar="URL",
        help="the address under which a proxy serves the page, such as https://slim.example/slim",
    )
    serve.add_argument(
        "--trust-forwarded-for",
        action="store_true",
        help="believe the last address in X-Forwarded-For, which your proxy adds",
    )
    serve.add_argument(
        "--root",
        action="append",
        type=parse_path,
        metavar="DIR",
        help="open models and texts from this folder only; give it once per folder",
    )


def main(arguments: Sequence[str] | None = None, serve: Command = commands.refuse_serve) -> int:
    """Run one command and return the exit status: 0 done, 2 refused with one sentence, 130 cancelled.

    The library does not know the page: `serve` starts it.
    """
    report = Report()
    # Windows has SIGBREAK, too: Ctrl-Break, and its way to ask a program with a console to end.
    for name in ("SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    spare_letters()
    try:
        quiet_libraries()
        given = build_parser(serve).parse_args(arguments)
        given.named = named_in(arguments)
        if given.offline:
            os.environ["HF_HUB_OFFLINE"] = "1"
        if distributed.is_distributed() and given.command != "analyse":
            raise Refusal(
                f"Several processes can share 'analyse', not '{given.command}'; start it by itself."
            )
        option_checks.check_options(given)
        if "out" in given and not distributed.is_distributed():
            for place in (given.out, given.out / "*"):
                atomic_write.mend_leftovers(place, report.say)
        answer = given.run(given, report)
        if answer is None:
            return OK
        if given.json:
            print(json.dumps(to_plain_json(answer), indent=1, allow_nan=False))
        else:
            given.show(answer)
        if answer.get("supported") is False:
            raise Refusal(answer["reason"])
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except BaseException as failure:
        return report_end(failure, report)
    return OK


def report_end(failure: BaseException, report: Report) -> int:
    """Report why a command ended early, and return the exit status.

    Raise the exception again if it is neither a failure nor an interruption, such as the end of `--help`.
    """
    if is_interruption(failure):
        said = left_by(report.step)
        report.say(f"slimllm: cancelled; {said + ', and ' if said else ''}nothing was left half-written.")
        return CANCELLED
    if isinstance(failure, Refusal):
        report.say(f"slimllm: {failure}")
        return REFUSED
    if not is_failure(failure):
        raise failure
    report.say(f"slimllm: {sentence_of(failure).rstrip('.')}; details are in {written_down(failure)}.")
    return REFUSED


def written_down(failure: BaseException) -> str:
    """Write the traceback of an unexpected failure to a file, and return the file's path."""
    file = home_folder() / "failure.txt"
    with contextlib.suppress(Refusal):
        atomic_write.write_text(file, without_tokens("".join(traceback.format_exception(failure))))
    return str(file)


def quiet_libraries() -> None:
    """Turn off the progress bars, notices and telemetry of other libraries."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
