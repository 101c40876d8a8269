"""Router, queues and toy model servers as real processes, sent more than they carry."""
