"""`python -m tools`: check the catalog, print its JSON Schema, start an entry, build the site, run the benchmarks."""

import argparse
import gc
import io
import json
import sys
from pathlib import Path

from tools.catalog import ROOT, load


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools", description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository to work on, this one by default")
    commands = parser.add_subparsers(required=True, metavar="command")

    check = commands.add_parser("check", help="check every file of catalog/ and every implementation it names")
    check.set_defaults(run=_check)

    schema = commands.add_parser("schema", help="print the JSON Schema of catalog/papers/*.yaml")
    schema.set_defaults(run=_schema)

    new = commands.add_parser("new", help="start an entry: catalog/papers/<key>.yaml")
    new.add_argument("key", help="<surname><year><word>, as rezatofighi2019generalized")
    new.add_argument("id", help="<kind>.<method>, as losses.giou_loss")
    new.set_defaults(run=_new)

    build = commands.add_parser("build", help="build the site into site/")
    build.set_defaults(run=_build)

    bench = commands.add_parser("bench", help="time the implementations beside the straightforward form")
    bench.add_argument("names", nargs="*", help="which ones, all by default")
    bench.set_defaults(run=_bench)

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = parser.parse_args()
    status: int = options.run(options)
    return status


def _check(options: argparse.Namespace) -> int:
    import torch

    from tools.checks import check

    # Golden cases are too small for more than one thread, and other threads wait for work by working.
    torch.set_num_threads(1)
    catalog = load(options.root)
    problems = check(catalog)
    for problem in problems:
        print(problem)
    count = f"{len(catalog.papers)} papers, {len(catalog.methods)} methods, {len(catalog.implemented)} implemented"
    print(f"{len(problems)} problem{'s' * (len(problems) > 1)} in {count}" if problems else f"{count}: all well", file=sys.stderr)
    return 1 if problems else 0


def _schema(options: argparse.Namespace) -> int:
    from tools.records import Paper

    print(json.dumps(Paper.model_json_schema(), indent=2))
    return 0


def _new(options: argparse.Namespace) -> int:
    from tools.scaffold import start

    try:
        print(start(options.root, options.key, options.id))
    except ValueError as error:
        print(error)
        return 1
    return 0


def _build(options: argparse.Namespace) -> int:
    from tools.build import build

    # The process lives for seconds, and what it makes stays until the end.
    gc.disable()
    return build(options.root)


def _bench(options: argparse.Namespace) -> int:
    from tools.bench.run import bench

    return bench(options.names)


if __name__ == "__main__":
    sys.exit(main())
