"""gapkit: why a student falls short of its teacher, what would close the gap, and whether it did.

models + data -> measure -> Measurements -> diagnose -> Gap -> plan -> Plan -> distill -> Outcome -> report
"""

__version__ = "0.1.0"
