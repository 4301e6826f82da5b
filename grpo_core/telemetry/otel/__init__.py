"""OpenTelemetry: a run's ledger as spans and its figures as metrics, sent over OTLP/HTTP."""
