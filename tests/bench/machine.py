"""The machine: its processor, caches and memory, and what else ran on it."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

FEATURES = "avx2 avx512f avx512_vnni avx512_bf16 amx_tile asimd sve".split()  # for small numbers
PACKAGES = "torch transformers jax llama_cpp_python tokenizers sentencepiece tiktoken".split()
BUFFER = 4 * 2**30  # bytes; what a read loop reads has to be much larger than any cache


def text_of(path):
    """What a file says, or nothing where there is none."""
    path = Path(path)
    return path.read_text() if path.exists() else ""


def processor(cpuinfo=None):
    """The processor's name, and what it has for numbers."""
    info = text_of("/proc/cpuinfo") if cpuinfo is None else cpuinfo
    name = re.search(r"model name\s*: (.+)", info)
    name = name[1] if name else platform.processor() or platform.machine()
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True).stdout.strip() or name
    has = set(re.findall(r"\S+", " ".join(re.findall(r"(?:flags|Features)\s*: (.+)", info)[:1])))
    features = " ".join(feature for feature in FEATURES if feature in has)
    return f"{name} ({features})" if features else name


def largest_cache(root="/sys/devices/system/cpu/cpu0/cache"):
    """Bytes of the processor's largest cache; 0 if it can't be told."""
    sizes = [text_of(path).strip() for path in Path(root).glob("index*/size")]
    return max((int(size[:-1]) * {"K": 2**10, "M": 2**20}[size[-1]] for size in sizes), default=0)


def free_memory(meminfo=None):
    """Bytes that programs can have; as much as is wanted if it can't be told."""
    free = re.search(r"MemAvailable:\s*(\d+) kB", meminfo or text_of("/proc/meminfo"))
    return int(free[1]) * 1024 if free else 2 * BUFFER


def buffer_size():
    """Bytes that the read loop reads: BUFFER, or half of the free memory if that is less."""
    return min(BUFFER, free_memory() // 2)


def ticks(stat=None):
    """Ticks that all cores ran programs or were taken from this virtual machine; and all ticks."""
    first = (stat or text_of("/proc/stat") or "cpu" + " 0" * 8).splitlines()[0]
    user, nice, system, idle, wait, irq, softirq, stolen = map(int, first.split()[1:9])
    busy = user + nice + system + irq + softirq + stolen
    return busy, busy + idle + wait


def others(before, after, own_seconds):
    """The part of the cores' time between two ticks() that went to others, not to own_seconds."""
    busy, total = (b - a for a, b in zip(before, after))
    return max(0, busy - own_seconds * os.sysconf("SC_CLK_TCK")) / max(1, total)


def describe():
    """The machine, and the packages that are measured on it."""
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    cache, system = largest_cache(), f"{platform.system()}, Python {platform.python_version()}"
    cache = f", largest cache {cache / 2**20:.0f} MB" if cache else ""
    return f"{processor()}, {os.cpu_count()} cores{cache}; {system}\n{versions}"


def warnings():
    """Yield what is wrong with this machine for the measurement."""
    if os.cpu_count() != 2:
        yield f"The marks are for two cores; here are {os.cpu_count()}."
    if (load := os.getloadavg()[0]) > 0.5:
        yield f"The load was {load:.1f} before: another program disturbs the measurement."
    if (size := buffer_size()) < 4 * (cache := largest_cache()):
        yield (f"The read loop reads {size / 1e9:.1f} GB; a cache of {cache / 1e9:.1f} GB may "
               "serve a part of that.")
