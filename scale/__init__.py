"""How it scales: what live answers take, which limit they meet first, and a simulation of both functions' autoscaling.

Nothing is measured here. The numbers are from docs/cost.md, bench/results.md, deploy/variables.sh, the price table and
limits.toml.
"""
