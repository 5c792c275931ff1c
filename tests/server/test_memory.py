"""The allocator of the collector returns freed memory."""

import subprocess
import sys

ARENAS = """
import ctypes, re, sys, threading
from trainvitals_server.memory import ARENAS_MAX, return_freed_memory
if sys.argv[1] == "limited":
    assert return_freed_memory()
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


LARGE_BLOCKS = """
import ctypes, sys
from pathlib import Path
from trainvitals_server.memory import return_freed_memory
if sys.argv[1] == "limited":
    assert return_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def block(size):
    address = ctypes.c_void_p(libc.malloc(size))
    ctypes.memset(address, 1, size)
    return address
libc.free(block(16 * 2**20))  # by default, blocks up to this size are no longer mapped
blocks = [block(4 * 2**20) for _ in range(20)]
last = block(500_000)  # behind them: what is before it stays in the arena
for address in blocks:
    libc.free(address)
pages = int(Path("/proc/self/statm").read_text().split()[1])
print(pages * 4096 // 2**20)
"""


def outcome(program, *arguments):
    command = [sys.executable, "-c", program, *arguments]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_many_threads_use_two_arenas_instead_of_one_each(tmp_path):
    limited, default = (outcome(ARENAS, m, str(tmp_path / m)) for m in ("limited", "default"))
    assert limited <= 2 < default


def test_large_blocks_are_returned_to_the_system_when_they_are_freed():
    assert outcome(LARGE_BLOCKS, "default") > outcome(LARGE_BLOCKS, "limited") + 60
