"""Measures the cases that are named in the lines of the input, each in a process of its own that finds everything imported."""

import contextlib
import json
import os
import sys
import tempfile

import torch

from tools.bench.measure import THREADS, once
from tools.bench.run import measure

torch.set_num_threads(THREADS)
# The first compilation imports the compiler.
once(torch.compile(torch.exp), {"input": torch.ones(2, requires_grad=True)})

for line in sys.stdin:
    name, with_compiler = json.loads(line)
    with tempfile.TemporaryFile() as log:
        process = os.fork()
        if process == 0:
            os.dup2(log.fileno(), sys.stderr.fileno())
            with contextlib.redirect_stdout(sys.stderr):
                found = measure(name, with_compiler=with_compiler)
            print(json.dumps(found), flush=True)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        if status != 0:
            log.seek(0)
            print(log.read().decode(errors="replace"), file=sys.stderr)
            print("{}", flush=True)
