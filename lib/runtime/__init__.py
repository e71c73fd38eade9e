"""What every process needs: settings, the catalog of upstreams, logs, metrics, traces, health, shutdown.

May import `domain`.
"""
