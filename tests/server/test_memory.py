"""The collector's threads share the arenas of the allocator."""

import subprocess
import sys

PROGRAM = """
import ctypes, re, sys, threading
from trainvitals_server.memory import ARENAS_MAX, limit_arenas
if sys.argv[1] == "limited":
    assert limit_arenas()
barrier = threading.Barrier(12)
def work():
    kept = [bytearray(50_000) for _ in range(20)]
    barrier.wait()
    barrier.wait()
threads = [threading.Thread(target=work) for _ in range(11)]
for thread in threads:
    thread.start()
barrier.wait()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
barrier.wait()
print(len(re.findall("<heap nr", open(sys.argv[2]).read())))
"""


def arenas(mode, tmp_path):
    command = [sys.executable, "-c", PROGRAM, mode, str(tmp_path / mode)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_many_threads_use_two_arenas_instead_of_one_each(tmp_path):
    assert arenas("limited", tmp_path) <= 2 < arenas("default", tmp_path)
