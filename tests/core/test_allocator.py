import ctypes
import os
import subprocess
import sys

import pytest

from lightning_fed.core import allocator

glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt") if os.name == "posix" else True, reason="only glibc can be told"
)

# The module by itself: the package would take seconds to import.
FAULTS = """
import resource, runpy
told = runpy.run_path({path!r})["keep_freed_memory"]() if {tell} else None
def step():  # what a step frees, the next one wants again
    blocks = [b"x" * 2**20 for _ in range(64)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(tell: bool, **variables: str) -> list[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    script = FAULTS.format(path=allocator.__file__, tell=tell)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment | variables, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@glibc
def test_freed_memory_is_not_fetched_again_page_by_page() -> None:
    told, faults = run(tell=True)
    assert told == "True"
    assert int(faults) < int(run(tell=False)[1]) / 10


@glibc
@pytest.mark.parametrize("variable", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_who_has_set_the_allocator_is_left_alone(variable: str) -> None:
    assert run(tell=True, **{variable: "" if variable == "GLIBC_TUNABLES" else "100000"})[0] == "False"


@glibc
def test_a_server_that_only_passes_messages_on_gives_their_memory_back() -> None:
    script = f"""
import runpy
told = runpy.run_path({allocator.__file__!r})["return_freed_memory"]()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
for _ in range(3):  # by itself, glibc learns from the first that blocks of this size are not to be mapped
    block = bytearray(30 * 2**20)
    del block
before = resident()
blocks = [bytearray(30 * 2**20) for _ in range(3)]
last = bytearray(2**19)  # above the others on the heap, if they lie there
del blocks
print(told, resident() - before < 2**20)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
