"""The path of a request: router, stage queues, model servers. It depends on the wire protocol only."""
