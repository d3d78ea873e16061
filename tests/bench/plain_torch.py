"""PyTorch alone: how fast it reads memory, and what memory its import takes."""

import time

import torch
import worker


def seconds(function, times=5):
    """The least that a call takes."""
    durations = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        durations.append(time.perf_counter() - start)
    return min(durations)


@torch.inference_mode()
def read(size):
    """Bytes a second of a buffer of size bytes, read in the fastest of a few ways; and which."""
    columns = 1024
    x, vector = torch.ones(int(size) // 4 // columns, columns), torch.ones(columns)
    ways = {
        "x.sum()": x.sum,
        "x.max()": x.max,
        "x @ vector": lambda: x @ vector,
        "linear(vector, x)": lambda: torch.nn.functional.linear(vector, x),
    }
    rates = {name: x.nbytes / seconds(way) for name, way in ways.items()}
    fastest = max(rates, key=rates.get)
    return {"bytes a second": rates[fastest], "way": fastest}


if __name__ == "__main__":
    worker.run(read=read, nothing=lambda: {"peak": worker.peak()})
