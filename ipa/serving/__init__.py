"""What every serving process has: a bounded HTTP server (uvicorn) and a log that never blocks it."""
