"""`slipstream doctor`: what would go wrong with this machine, these versions and this deployment, before anything runs.

Facts are gathered by thin functions and examined by pure ones; nothing here imports torch or talks to a GPU but
`nvidia-smi`.
"""

from slipstream.doctor.examine import examine
from slipstream.doctor.facts import EngineFacts, Facts, GpuFacts, Machine, Memory, Methods, Pins, Serving
from slipstream.doctor.findings import FINDINGS, Finding, Report, Severity
from slipstream.doctor.gather import gather_facts
from slipstream.doctor.text import report_text

__all__ = [
    "FINDINGS",
    "EngineFacts",
    "Facts",
    "Finding",
    "GpuFacts",
    "Machine",
    "Memory",
    "Methods",
    "Pins",
    "Report",
    "Serving",
    "Severity",
    "examine",
    "gather_facts",
    "report_text",
]
