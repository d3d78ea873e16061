"""JAX alone: what memory its import takes."""

import jax  # noqa: F401
import worker

if __name__ == "__main__":
    worker.run(nothing=lambda: {"peak": worker.peak()})
