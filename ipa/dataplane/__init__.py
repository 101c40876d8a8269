"""What requests pass: router, stage queues, model servers. Knows only the wire."""
