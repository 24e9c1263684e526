"""The planner: from model, workload and hardware to a topology, with a reason and an interval for every number."""
