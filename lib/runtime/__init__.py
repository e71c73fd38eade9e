"""What every process needs: settings and the catalog of upstreams, logs, metrics, traces, health, shutdown.

May use `domain`.
"""
