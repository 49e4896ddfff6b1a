"""What is kept, by sorting."""

import numpy as np


def best(values, count):
    return tuple(sorted(np.argsort(-values, kind="stable")[:count].tolist()))
