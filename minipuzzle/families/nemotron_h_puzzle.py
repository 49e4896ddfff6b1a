"""Nemotron-H whose blocks of one kind differ in size (``block_configs``): what pruning per block
leaves behind.
"""

from minipuzzle.families.nemotron_h import FIELDS, architecture, config, extra_files, names

__all__ = ["FIELDS", "architecture", "config", "extra_files", "names"]
