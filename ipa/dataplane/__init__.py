"""The path of a request: router, stage queues, model servers. This package knows only the wire protocol."""
