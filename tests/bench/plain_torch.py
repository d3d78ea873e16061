"""PyTorch alone: how fast it reads memory, and what memory its import takes."""

import statistics
import time

import torch
import worker


def seconds(function, times=15):
    """The median of a few calls."""
    durations = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


@torch.inference_mode()
def read(size):
    """How often a second size bytes can be read, in the fastest of a few ways, and in which."""
    columns = 768
    x, vector = torch.ones(int(size) // 4 // columns, columns), torch.ones(columns)
    ways = {
        "x.sum()": x.sum,
        "x.max()": x.max,
        "x @ vector": lambda: x @ vector,
        "linear(vector, x)": lambda: torch.nn.functional.linear(vector, x),
    }
    rates = {name: 1 / seconds(way) for name, way in ways.items()}
    fastest = max(rates, key=rates.get)
    return {"rate": rates[fastest], "way": fastest}


if __name__ == "__main__":
    worker.run(read=read, nothing=lambda: {"peak": worker.peak()})
