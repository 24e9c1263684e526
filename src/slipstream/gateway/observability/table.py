"""The table of docs/gateway-metrics.md: `python -m slipstream.gateway.observability.table` prints it."""

from __future__ import annotations

from slipstream.gateway.observability.families import FAMILIES


def metrics_table() -> str:
    """One row a family."""
    rows = [
        f"| `{family.name}` | {family.kind} | {', '.join(f'`{label}`' for label in family.labels) or '–'} |"
        f" {family.description} |"
        for family in FAMILIES
    ]
    return "\n".join(["| name | kind | labels | |", "|---|---|---|---|", *rows])


if __name__ == "__main__":
    print(metrics_table())
