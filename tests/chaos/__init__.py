"""Services, trainers and a log server as real processes, which are killed, stopped, cut off and started again.

`python -m tests.chaos --seed N` runs it and prints what it did; `make chaos` does. The schedule of faults follows
from the seed; what the processes are at when a fault comes does not.
"""
