"""What leaves the process: OTLP metrics and traces, Prometheus, console."""
