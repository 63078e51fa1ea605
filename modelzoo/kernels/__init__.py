"""Fast operations, each beside its plain reference; `modelzoo.kernels.registry` chooses which one runs.

A folder an operation:

- `__init__.py`: the public function with its equation, its registration, and its `torch.library` parts;
- `reference.py`: every part in plain torch, the oracle of tests and benchmarks;
- `triton.py`: every part for the GPU, and the configurations that are compiled ahead of time;
- `compiled.py`, where a faster way on the CPU is known: every part again.
"""
